package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// modulePath is the module that main belongs to.
const modulePath = "github.com/stepio-go/stepio/bench"

// moduleDir finds the directory of the benchmark's module: the working
// directory or one above it, the directory "bench" in one of those, or where
// this file was when it was compiled.
func moduleDir() (string, error) {
	var candidates []string
	if dir, err := os.Getwd(); err == nil {
		for {
			candidates = append(candidates, dir, filepath.Join(dir, "bench"))
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	if _, self, _, ok := runtime.Caller(0); ok {
		candidates = append(candidates, filepath.Dir(self))
	}
	for _, dir := range candidates {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil {
			continue // no module here
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if strings.TrimSpace(first) == "module "+modulePath {
			return dir, nil
		}
	}
	return "", errors.New("the directory of module " + modulePath + " is not found: run it in there")
}

// buildTagged builds this program with build tags into a file in dir and
// returns its path. The working directory is the module's.
func buildTagged(ctx context.Context, dir, tags string) (string, error) {
	path := filepath.Join(dir, "bench-"+tags)
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-o", path, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build -tags %s: %w: %s", tags, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

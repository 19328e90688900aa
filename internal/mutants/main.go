// Mutants shows that the simulation finds bugs: it plants some in a copy of the
// module, one after the other, and runs TestSim on each.
//
//	go run ./internal/mutants               # from the module's root; some minutes
//	go run ./internal/mutants -only edge    # those whose name has "edge" in it
//
// It prints a line for each, with the seed that has caught it; seeds count from
// 1. It fails when one survives, or cannot be planted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

func main() {
	only := flag.String("only", "", "plant those whose name matches")
	seeds := flag.Int("seeds", 2000, "how many seeds each gets")
	flag.Parse()
	survived, err := plantAll(*only, *seeds)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
	if survived > 0 {
		fmt.Fprintf(os.Stderr, "mutants: %d survived\n", survived)
		os.Exit(1)
	}
}

// plantAll plants each mutation in turn, and says how many were not caught.
func plantAll(only string, seeds int) (survived int, err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := copyModule(dir); err != nil {
		return 0, err
	}
	switch verdict, err := test(dir, 100); {
	case err != nil:
		return 0, fmt.Errorf("the library as it is: %w", err)
	case verdict != "":
		return 0, fmt.Errorf("the library as it is: %s", verdict)
	}
	for _, m := range mutations {
		if !match.MatchString(m.name) {
			continue
		}
		verdict, err := plant(dir, m, seeds)
		if err != nil {
			return survived, fmt.Errorf("%s: %w", m.name, err)
		}
		if verdict == "" {
			verdict = "SURVIVED"
			survived++
		}
		fmt.Printf("%-50s %s\n", m.name, verdict)
	}
	return survived, nil
}

// copyModule copies what the root package and its tests are built from.
func copyModule(dir string) error {
	return filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (path == "bench" || path == "examples" || path == ".git"):
			return filepath.SkipDir
		case e.IsDir():
			return os.MkdirAll(filepath.Join(dir, path), 0o755)
		}
		switch filepath.Ext(path) {
		case ".go", ".s", ".mod", ".sum":
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, path), text, 0o644)
		}
		return nil
	})
}

// plant is test with m in the copy.
func plant(dir string, m mutation, seeds int) (verdict string, err error) {
	path := filepath.Join(dir, m.file)
	text, changed, err := m.texts(dir)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		return "", err
	}
	verdict, err = test(dir, seeds)
	return verdict, errors.Join(err, os.WriteFile(path, []byte(text), 0o644))
}

// texts is m's file in the module in dir, as it is and as m has it.
func (m mutation) texts(dir string) (text, changed string, err error) {
	content, err := os.ReadFile(filepath.Join(dir, m.file))
	if err != nil {
		return "", "", err
	}
	text = string(content)
	if n := strings.Count(text, m.old); n != 1 {
		return "", "", fmt.Errorf("the text to replace occurs %d times in %s", n, m.file)
	}
	return text, strings.Replace(text, m.old, m.new, 1), nil
}

// limit is for one run of the tests, building included.
const limit = 3 * time.Minute

var (
	again   = regexp.MustCompile(`-seed (\d+)`)
	problem = regexp.MustCompile(`(?m)^\s+turn \d+: (.*)$`)
	crash   = regexp.MustCompile(`(?m)^(panic|fatal error): (.*)$`)
	built   = regexp.MustCompile(`(?m)^(--- FAIL: TestSim|panic|fatal error)`)
)

// test runs the simulation in dir, and says how it failed: empty when it passed.
func test(dir string, seeds int) (verdict string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-run", "^TestSim$", ".", "-seeds", fmt.Sprint(seeds))
	cmd.Dir = dir
	cmd.WaitDelay = time.Second // the test's own process may outlive the command
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return "", nil
	case ctx.Err() != nil:
		return fmt.Sprintf("no end within %v", limit), nil
	case !built.Match(out):
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	if seed := again.FindSubmatch(out); seed != nil {
		what := "failed"
		if p := problem.FindSubmatch(out); p != nil {
			what = string(p[1])
		}
		return fmt.Sprintf("seed %5s: %s", seed[1], what), nil
	}
	if c := crash.FindSubmatch(out); c != nil {
		return fmt.Sprintf("crash: %s", c[2]), nil
	}
	return "failed", nil
}

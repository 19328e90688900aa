package contend

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// The programs that the benchmark builds are kept for the run in one directory
// of the system's temporary one.

//go:embed limit/*.c limit/*.h
var limitSources embed.FS

// programs is that directory, made when the first program is built.
var programs struct {
	sync.Mutex
	dir   string
	built map[string]func() error // by name, each run once
}

// Cleanup removes the programs that were built for the run. One that is asked
// for again is built again.
func Cleanup() error {
	programs.Lock()
	defer programs.Unlock()
	dir := programs.dir
	programs.dir, programs.built = "", nil
	if dir == "" {
		return nil
	}
	return os.RemoveAll(dir)
}

// builtOnce is the path of the program of that name, which build makes there
// when it is first asked for.
func builtOnce(name string, build func(path string) error) (string, error) {
	programs.Lock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "stepio-bench-")
		if err != nil {
			programs.Unlock()
			return "", err
		}
		programs.dir, programs.built = dir, make(map[string]func() error)
	}
	path := filepath.Join(programs.dir, name)
	once := programs.built[name]
	if once == nil {
		once = sync.OnceValue(func() error { return build(path) })
		programs.built[name] = once
	}
	programs.Unlock()
	return path, once()
}

// cProgram is a Contender's Program whose services are C sources, started with
// those arguments.
func cProgram(sources map[Service]string, args ...string) func(Service) ([]string, error) {
	return func(s Service) ([]string, error) {
		name := sources[s]
		if name == "" {
			return nil, nil
		}
		path, err := builtOnce("limit-"+name, func(path string) error { return compile(name, path) })
		if err != nil {
			return nil, err
		}
		return append([]string{path}, args...), nil
	}
}

// compile makes the program path of the C source of that name.
func compile(name, path string) error {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return fmt.Errorf("no C compiler: %w", err)
	}
	dir := path + ".src"
	sources, err := fs.Sub(limitSources, "limit")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, sources); err != nil {
		return err
	}
	out, err := exec.Command(cc, "-O2", "-std=gnu11", "-Wall", "-Wextra", "-pthread",
		"-o", path, filepath.Join(dir, name+".c")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cc %s.c: %w: %s", name, err, firstLine(out))
	}
	if len(out) > 0 {
		return errors.New("cc " + name + ".c warns: " + firstLine(out))
	}
	return os.RemoveAll(dir)
}

// goProgram makes the program path of a package's main. The package is one of
// the bench module or of what it requires, so it runs in the bench module, as
// "go -C bench run" and "go -C bench test" do.
func goProgram(pkg, path string) error {
	out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build %s (which needs the working directory to be in the bench module): %w: %s",
			pkg, err, firstLine(out))
	}
	return nil
}

func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	return string(line)
}

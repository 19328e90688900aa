package stepio

import (
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"testing"
	"time"

	"github.com/stepio-go/stepio/internal/testseed"
)

// What every test of this package is held to: no descriptor, no goroutine and
// no loop is left behind. TestMain looks once, after all of them; a test that
// looks for itself calls openFDs.

// seededRand is the random source of one test. A failed test prints its seed.
var seededRand = testseed.Rand

func TestMain(m *testing.M) {
	flag.Parse()
	warmUp()
	goroutines, fds := runtime.NumGoroutine(), openFDs()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzing machinery has goroutines and descriptors of its own
	}
	if !leftNothing(goroutines, fds) {
		code = 1
	}
	os.Exit(code)
}

// warmUp makes package net open what it keeps for the life of the process.
func warmUp() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "no loopback:", err)
		os.Exit(1)
	}
	_ = ln.Close() // nothing was sent
}

// leftNothing reports what the tests have left behind. A goroutine that has
// done its work may need a moment to be gone.
func leftNothing(goroutines int, fds []string) bool {
	clean := true
	for patience := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
		if time.Now().After(patience) {
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after them:\n", goroutines, runtime.NumGoroutine())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			clean = false
			break
		}
	}
	runtime.GC() // os.File and net.Conn have finalizers, and only what they can't find is lost
	if after := openFDs(); len(after) > len(fds) {
		fmt.Fprintf(os.Stderr, "%d descriptors before the tests, %d after them:\n", len(fds), len(after))
		for _, fd := range after {
			if !slices.Contains(fds, fd) {
				fmt.Fprintln(os.Stderr, "\t"+fd)
			}
		}
		clean = false
	}
	for _, l := range worlds.left() {
		fmt.Fprintln(os.Stderr, "loop not closed:", l)
		clean = false
	}
	return clean
}

// openFDs names the process's open descriptors.
func openFDs() (fds []string) {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/dev/fd", e.Name()))
		if err == nil && filepath.Dir(target) == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue // the directory that is being read
		}
		fds = append(fds, e.Name()+" "+target)
	}
	return fds
}

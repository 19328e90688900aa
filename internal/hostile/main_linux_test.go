package hostile

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stepio-go/stepio/internal/stdin"
)

// What the tests share: their flags, the table of figures, and the roles that
// the test binary plays when it is started as a process of its own.

var (
	full    = flag.Bool("full", false, "the sizes that are promised, instead of smaller ones: a few minutes")
	figures = flag.Bool("figures", false, "assert the timed bounds too, and measure for longer: on a quiet machine")
)

// roleEnv makes the test binary a child that plays a role.
const roleEnv = "STEPIO_HOSTILE_ROLE"

// roles are what a child can be. Each reads a configuration and then commands,
// as JSON, and answers each of them.
var roles = map[string]func(in *json.Decoder, out *json.Encoder) error{
	"server":   serverRole,
	"pinger":   pingerRole,
	"flooder":  flooderRole,
	"resetter": resetterRole,
	"stranger": strangerRole,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		in, err := stdin.Pipe()
		if err == nil {
			err = roles[role](json.NewDecoder(in), json.NewEncoder(os.Stdout))
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	if err := startRuntimePoller(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before, goroutines := openFDs(), runtime.NumGoroutine()
	code := m.Run()
	printTable()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after them\n", goroutines, n)
		code = 1
	}
	if after := openFDs(); after > before {
		fmt.Fprintf(os.Stderr, "%d descriptors before the tests, %d after them\n", before, after)
		code = 1
	}
	os.Exit(code)
}

// patience bounds everything a test waits for.
const patience = 20 * time.Second

// size is the promised one with -full, and a quarter of the other under the race
// detector.
func size(promised, otherwise int) int {
	switch {
	case *full:
		return promised
	case raceDetector:
		return otherwise / 4
	}
	return otherwise
}

// window is how long something is measured.
func window(d time.Duration) time.Duration {
	if *figures {
		return 4 * d
	}
	return d
}

// table has a line for each figure. Tests may be parallel.
var (
	table   []string
	tableMu sync.Mutex
)

// figure adds a line to the table: what is promised, what came out, the bound,
// and whether it was met. A line without a bound is for information.
func figure(promise, value, bound string, met bool) {
	verdict := "yes"
	switch {
	case bound == "":
		verdict = ""
	case !met:
		verdict = "NO"
	}
	addLine(promise, value, bound, verdict)
}

func addLine(columns ...string) {
	tableMu.Lock()
	defer tableMu.Unlock()
	table = append(table, strings.Join(columns, "\t"))
}

// behaves adds a line and fails the test when the bound is not met.
func behaves(t testing.TB, promise, value, bound string, met bool) {
	t.Helper()
	figure(promise, value, bound, met)
	if !met {
		t.Errorf("%s: %s, bound %s", promise, value, bound)
	}
}

// timed is behaves for what a busy machine spoils: it fails with -figures only.
func timed(t testing.TB, promise, value, bound string, met bool) {
	t.Helper()
	if *figures {
		behaves(t, promise, value, bound, met)
		return
	}
	if bound != "" && !met {
		addLine(promise, value, bound, "no, not asserted")
		return
	}
	figure(promise, value, bound, met)
}

func printTable() {
	if len(table) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\npromise\tfigure\tbound\tmet")
	for _, line := range table {
		fmt.Fprintln(w, line)
	}
	if err := w.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if raceDetector {
		fmt.Println("(under the race detector: times and memory are not the library's)")
	}
}

// micros is a duration in the table.
func micros(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }

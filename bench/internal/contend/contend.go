// Package contend holds the servers that the benchmark compares. Each runs in a
// process of its own: the benchmark's binary, started again as "bench serve
// NAME SERVICE", or a C program.
package contend

import (
	"bufio"
	"fmt"
	"io"
	"runtime"
	"strings"
)

// A Service is what a server does with what it gets. All servers of a service
// do the same, so that the same client can verify every byte.
type Service string

const (
	// Echo sends back what it gets, over TCP, in the order in which it came.
	Echo Service = "echo"
	// EchoUDP sends each datagram back to where it came from.
	EchoUDP Service = "echo-udp"
	// HTTP answers GET /hello of HTTP/1.1, keep-alive and pipelined, with status
	// 200, a Content-Length, and the body Hello.
	HTTP Service = "http"
	// Fanout takes one byte from each new connection and sends it back: 'S'
	// makes it a subscriber, 'P' a publisher. What a publisher sends after that is
	// cut in messages of FanoutSize bytes; each goes to every subscriber, in order.
	Fanout Service = "fanout"
)

// Hello is the body of the HTTP service's answer.
const Hello = "Hello, World!\n"

// FanoutSize is the size of a fan-out message in bytes.
const FanoutSize = 64

// A Start begins to serve on a free port of 127.0.0.1, on goroutines of its
// own, and returns the address as host:port.
type Start func() (addr string, err error)

// A Contender is one server of the comparison.
type Contender struct {
	Name   string            // short: a column of the tables
	About  string            // what it is and which of its fast paths is used, in one sentence
	Limit  bool              // the bound that the others are measured against
	Tags   string            // build tags, when it needs a binary of its own
	Starts map[Service]Start // what it serves in this binary
	// Program, when set, is asked before Starts: it builds or finds another program
	// and returns the command line that starts it, nil when the contender has no
	// program for that service: then Starts counts. The error says why a program
	// cannot be had here (no C compiler): the contender is left out with that line.
	// The program keeps to the protocol of Serve, and inherits the environment
	// (GOMAXPROCS). What was built is removed by Cleanup.
	Program func(Service) ([]string, error)
	// Mute says that Program's process does not read its input: it is never asked
	// for "heap" (its heap is -1), and is stopped by SIGTERM, upon which it exits
	// with code 0. Its first line is "listening on HOST:PORT"; Listening parses both.
	Mute bool
}

// Listening returns the address that a server's first line tells, HOST:PORT.
// The line is that of Serve, or of an example server, which says "on" as well.
func Listening(line string) (addr string, ok bool) {
	addr, ok = strings.CutPrefix(strings.TrimSpace(line), "listening ")
	return strings.TrimPrefix(addr, "on "), ok
}

// All returns every contender in the order of the tables.
func All() []Contender { return append([]Contender(nil), all...) }

// Find returns the contender of that name.
func Find(name string) (Contender, bool) {
	for _, c := range all {
		if c.Name == name {
			return c, true
		}
	}
	return Contender{}, false
}

// Serve starts a service and speaks the protocol of a server process: it
// writes "listening HOST:PORT", then answers each line of in: "heap" with "heap
// N", the bytes of the Go heap in use after a full collection ("heap -1" where
// there is no Go heap); and returns at the end of in.
func Serve(start Start, in io.Reader, out io.Writer) error {
	addr, err := start()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "listening %s\n", addr); err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		switch line := strings.TrimSpace(lines.Text()); line {
		case "heap":
			if _, err := fmt.Fprintf(out, "heap %d\n", heapInUse()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("bench: unknown command %q", line)
		}
	}
	return lines.Err()
}

// heapInUse collects garbage until finalizers have had their turn and returns
// the bytes of the objects and of the stacks that are left: a goroutine's stack
// is what a connection costs where there is a goroutine for it.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

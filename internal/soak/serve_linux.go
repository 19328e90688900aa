package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/stdin"
)

// The servers are a process of its own, so that memory, processor time and
// descriptors are theirs alone. It is this program, started again with roleVar
// in its environment, and spoken to in lines: a command, and an answer in JSON.
// It ends with its input.

// roleVar says in a child's environment what it is to be.
const roleVar = "STEPIO_SOAK_ROLE"

const (
	roleServer  = "server"  // the service
	roleControl = "control" // an echo server of package net, for comparison
)

// order is what the server is told.
type order struct {
	Do    string        // one of the constants below
	Loops int           // start
	Seed  uint64        // start
	Grace time.Duration // restart, stop
}

const (
	doStart   = "start"   // start the service
	doBegin   = "begin"   // begin the errands
	doSample  = "sample"  // tell how it is
	doRestart = "restart" // begin a restart
	doQuiet   = "quiet"   // end the errands, collect garbage, then as sample
	doDump    = "dump"    // tell every task and goroutine
	doStop    = "stop"    // shut the service down, then as sample
)

// answer is what the server says.
type answer struct {
	Err      string // why the order failed
	Addrs    addresses
	Sample   sample
	Failures []string // what the service has found wrong, the first few
	Failed   int      // how often
	Dump     string
}

// runRole is the life of a child. It returns its exit code.
func runRole(role string) int {
	in, err := stdin.Pipe()
	switch {
	case err != nil:
	case role == roleServer:
		err = new(server).obey(in, os.Stdout)
	case role == roleControl:
		err = serveControl(in, os.Stdout)
	default:
		err = fmt.Errorf("no such role: %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "soak %s: %v\n", role, err)
		return 1
	}
	return 0
}

// server obeys orders, one after the other. A restart goes on meanwhile.
type server struct {
	service *service
	restart sync.WaitGroup

	mu       sync.Mutex // for service.now and what follows
	restarts restarts
}

// restarts is what is known of them.
type restarts struct {
	Underway bool
	Done     int
	Cut      int // those at whose end some tasks had to be destroyed
}

func (s *server) obey(in io.Reader, out io.Writer) error {
	// The runtime opens what it keeps for the life of the process with the first
	// timer.
	<-time.After(time.Millisecond)
	lines := bufio.NewScanner(in)
	encode := json.NewEncoder(out)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		var a answer
		if err := s.do(o, &a); err != nil {
			a.Err = err.Error()
		}
		if err := encode.Encode(a); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (s *server) do(o order, a *answer) (err error) {
	if s.service == nil && o.Do != doStart && o.Do != doSample {
		return fmt.Errorf("%s before %s", o.Do, doStart)
	}
	switch o.Do {
	case doStart:
		if s.service, err = newService(o.Loops, o.Seed); err != nil {
			return err
		}
		a.Addrs = s.service.addrs
	case doRestart:
		s.mu.Lock()
		s.restarts.Underway = true
		s.mu.Unlock()
		s.restart.Go(func() { s.replace(o.Grace) })
		return nil
	case doDump:
		return s.dump(a)
	case doBegin:
		s.service.begin(s.service.now)
	case doQuiet:
		s.restart.Wait()
		s.service.now.endErrands()
		debug.FreeOSMemory()
	case doStop:
		s.restart.Wait()
		if err = s.service.stop(o.Grace); err != nil {
			return err
		}
		s.service.now = nil
	case doSample:
	default:
		return fmt.Errorf("no such order: %q", o.Do)
	}
	if s.service != nil {
		a.Failed, a.Failures = s.service.failures.count(), s.service.failures.texts()
	}
	return s.sample(&a.Sample)
}

// replace makes a restart.
func (s *server) replace(grace time.Duration) {
	next, err := s.service.start()
	if err == nil {
		var cut bool
		s.mu.Lock()
		old := s.service.now
		s.service.now = next
		s.mu.Unlock()
		s.service.begin(next)
		cut, err = old.shutDown(grace)
		if cut {
			s.mu.Lock()
			s.restarts.Cut++
			s.mu.Unlock()
		}
	}
	if err != nil {
		s.service.failures.add("restart: %v", err)
	}
	s.mu.Lock()
	s.restarts.Underway = false
	s.restarts.Done++
	s.mu.Unlock()
}

// dump tells what every task and goroutine is doing.
func (s *server) dump(a *answer) error {
	var b bytes.Buffer
	s.mu.Lock()
	g := s.service.now
	s.mu.Unlock()
	if g != nil {
		if err := g.each(func(l *stepio.Loop) error { return l.Dump(&b) }); err != nil {
			return err
		}
	}
	err := pprof.Lookup("goroutine").WriteTo(&b, 1)
	a.Dump = b.String()
	return err
}

// serveControl is an echo server of package net. It has the same clients as the
// other echo servers, so what disturbs the machine disturbs it as well.
func serveControl(in io.Reader, out io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // the end of the process
			}
			go func() {
				_, _ = io.Copy(conn, struct{ io.Reader }{conn}) // no splice; a client may reset it
				_ = conn.Close()                                // all was said
			}()
		}
	}()
	_, err = io.Copy(io.Discard, in)
	return err
}

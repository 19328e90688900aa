// Package cli is what the example servers share: flags, signals and exit codes.
//
// A server prints one line, "listening on ADDR", on standard output once it is
// ready. SIGINT and SIGTERM stop it, with exit code 0. A bad flag is answered
// with the usage and exit code 2; a server that can't start, with one line on
// standard error and exit code 1.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/stepio-go/stepio"
)

// Server is what the flags say, and the loops that they ask for.
type Server struct {
	Addr  netip.AddrPort // of -addr
	Group *stepio.Group  // of -loops

	pool *stepio.Pool
}

// Flags are the flags that every server has.
type Flags struct {
	addr  *string
	loops *int
}

// Define defines -addr and -loops, and what -h says about the program.
func Define(addr, about string) *Flags {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "%s: %s\n\nusage:\n", filepath.Base(os.Args[0]), about)
		flag.PrintDefaults()
	}
	return &Flags{
		addr:  flag.String("addr", addr, "`address` to listen on; no host means all, IPv4 and IPv6"),
		loops: flag.Int("loops", 0, "`number` of loops, each on a thread of its own; 0: one a processor"),
	}
}

// Workers defines -workers.
func Workers() *int {
	return flag.Int("workers", 0, "`number` of goroutines that handle the messages; 0: the loops do it themselves")
}

// Main parses the flags, runs start, and serves until a signal comes. start
// sets the server up on its loops and returns the address that it listens on.
func (f *Flags) Main(start func(*Server) (netip.AddrPort, error)) {
	flag.Parse()
	if flag.NArg() > 0 {
		usage("unexpected argument %q", flag.Arg(0))
	}
	if *f.loops < 0 {
		usage("-loops: %d is negative", *f.loops)
	}
	if err := f.serve(start); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// usage ends the program over a bad flag.
func usage(format string, args ...any) {
	fmt.Fprintf(flag.CommandLine.Output(), format+"\n", args...)
	flag.Usage()
	os.Exit(2)
}

func (f *Flags) serve(start func(*Server) (netip.AddrPort, error)) (err error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	s := new(Server)
	if s.Addr, err = Resolve(*f.addr); err != nil {
		return err
	}
	if s.Group, err = stepio.NewGroup(*f.loops); err != nil {
		return err
	}
	limitProcessors(s.Group.Len())
	defer func() {
		s.Group.Stop()
		err = errors.Join(err, s.Group.Join())
		if s.pool != nil {
			s.pool.Stop()
			s.pool.Join()
		}
	}()
	addr, err := start(s)
	if err != nil {
		return err
	}
	fmt.Printf("listening on %v\n", addr)
	<-signals
	return nil
}

// limitProcessors has the Go scheduler use no more processors than there are
// goroutines to keep busy. A loop that works is preempted every 10 ms and goes
// on at once; while a processor is idle, the runtime wakes a thread each time to
// look for work, which finds none: docs/internals.md has the figures. The
// environment's GOMAXPROCS has the last word.
func limitProcessors(n int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(min(n, runtime.NumCPU()))
	}
}

// Resolve is the first address that hostport stands for.
func Resolve(hostport string) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	addrs, err := stepio.ResolveAddr(ctx, hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrs[0], nil
}

// Pool is a pool of the given number of workers, nil for none, that ends with
// the server. A negative number is a bad flag.
func (s *Server) Pool(workers int) *stepio.Pool {
	if workers < 0 {
		usage("-workers: %d is negative", workers)
	}
	if workers > 0 {
		limitProcessors(s.Group.Len() + workers)
		s.pool = stepio.NewPool(workers, 64*workers)
	}
	return s.pool
}

// ListenTCP listens on every loop, and has each handle its listener. The loops
// share the address by SO_REUSEPORT, which would also let a second server in on
// it: so the first loop asks for it alone, before.
func (s *Server) ListenTCP(handle func(*stepio.Loop, *stepio.TCPListener)) (netip.AddrPort, error) {
	var addr netip.AddrPort
	err := s.Group.Each(func(i int, l *stepio.Loop) error {
		shared := stepio.ListenOptions{ReusePort: s.Group.Len() > 1}
		if i == 0 {
			alone, err := stepio.ListenTCP(l, s.Addr, stepio.ListenOptions{})
			if err != nil {
				return err
			}
			addr = alone.Addr()
			if !shared.ReusePort {
				handle(l, alone)
				return nil
			}
			if err := alone.Close(); err != nil {
				return err
			}
		}
		ln, err := stepio.ListenTCP(l, addr, shared)
		if err != nil {
			return err
		}
		handle(l, ln)
		return nil
	})
	return addr, err
}

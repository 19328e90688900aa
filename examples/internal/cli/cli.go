// Package cli is what the example servers share: flags, signals and exit codes.
//
// A server prints one line, "listening on ADDR", on standard output once it is
// ready. SIGINT and SIGTERM shut it down: it accepts nothing more, finishes what
// it has begun, for as long as -grace allows, and ends with exit code 0; a second one ends it
// at once. A bad flag is answered with the reason, the usage and exit code 2,
// before anything has started; a server that can't start, with one line on
// standard error and exit code 1.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/stepio-go/stepio"
)

// Server is what the flags say, and the loops that they ask for.
type Server struct {
	Addr    netip.AddrPort  // of -addr
	Group   *stepio.Group   // of -loops
	Context context.Context // ends when the server has shut down

	pool      *stepio.Pool
	reusePort bool // of -reuseport
}

// Flags are the flags that every server has.
type Flags struct {
	addr      *string
	loops     *int
	reusePort *bool
	grace     *time.Duration
	checks    []func() error
}

// Define defines -addr, -loops, -reuseport and -grace, and what -h says about the program.
func Define(addr, about string) *Flags {
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "%s: %s\n\nusage:\n", filepath.Base(os.Args[0]), about)
		flag.PrintDefaults()
	}
	f := new(Flags)
	f.addr = f.HostPort("addr", addr, "`address` to listen on; no host means all, IPv4 and IPv6")
	f.loops = number("loops", 1024, "`number` of loops, each on a goroutine of its own; 0: one a processor (default 0)")
	f.grace = flag.Duration("grace", 10*time.Second, "`time` to finish what has begun, after SIGINT or SIGTERM; what has not ended by then is cut")
	f.reusePort = flag.Bool("reuseport", false, "share the address with other servers that have this flag (SO_REUSEPORT), to replace one by another without a gap")
	return f
}

// Workers defines -workers.
func Workers() *int {
	return number("workers", 1<<14, "`number` of goroutines that handle the messages; 0: the loops do it themselves (default 0)")
}

// number defines a flag that is a number from 0, its default, to most.
func number(name string, most int, usage string) *int {
	n := new(int)
	flag.Func(name, usage, func(text string) error {
		value, err := strconv.Atoi(text)
		if err != nil || value < 0 || value > most {
			return fmt.Errorf("not a number from 0 to %d", most)
		}
		*n = value
		return nil
	})
	return n
}

// HostPort defines a flag that is a host, which may be a name or missing, and a
// port. A flag without a default must be given.
func (f *Flags) HostPort(name, value, usage string) *string {
	p := flag.String(name, value, usage)
	f.Check(func() error {
		if *p == "" {
			return fmt.Errorf("flag -%s is missing", name)
		}
		_, port, err := net.SplitHostPort(*p)
		if err == nil {
			_, err = net.LookupPort("ip", port)
		}
		if err != nil {
			return fmt.Errorf("invalid value %q for flag -%s: %w", *p, name, err)
		}
		return nil
	})
	return p
}

// Check adds a check of the flags, to be made before anything starts. Its error
// is a bad flag.
func (f *Flags) Check(check func() error) { f.checks = append(f.checks, check) }

// Main parses the flags, runs start, and serves until a signal comes. start
// sets the server up on its loops and returns the address that it listens on.
func (f *Flags) Main(start func(*Server) (netip.AddrPort, error)) {
	flag.Parse() // -h: the usage and exit code 0
	if err := f.check(); err != nil {
		fmt.Fprintln(flag.CommandLine.Output(), err)
		flag.Usage()
		os.Exit(2)
	}
	if err := f.serve(start); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func (f *Flags) check() error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	for _, check := range f.checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// serve runs the server until a signal comes, which may be before it listens.
func (f *Flags) serve(start func(*Server) (netip.AddrPort, error)) (err error) {
	signalled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Context: ctx, reusePort: *f.reusePort}
	defer cancel()
	if s.Addr, err = resolve(signalled, *f.addr); err != nil {
		if signalled.Err() != nil {
			return nil
		}
		return err
	}
	if s.Group, err = stepio.NewGroup(*f.loops); err != nil {
		return err
	}
	setProcessors(processors(s.Group.Len(), 0, runtime.NumCPU()))
	defer func() {
		s.Group.Stop()
		err = errors.Join(err, s.Group.Join())
		cancel()
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
	<-signalled.Done()
	stop() // a second signal has its usual effect
	return shutDown(s.Group, *f.grace)
}

// shutDown shuts the loops down. That some connections had to be cut is no
// failure; that a loop had ended before is Join's to report.
func shutDown(g *stepio.Group, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := g.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, stepio.ErrLoopClosed) {
		return nil
	}
	return err
}

// processors is how many of the Go scheduler's processors a server uses: one more
// than loops, also where there are no more CPUs (see stepio.NewGroup). With workers
// of a pool, which every message goes through here, it is what there is to keep
// busy: a processor to spare would make each hop wake a thread.
func processors(loops, workers, cpus int) int {
	if workers > 0 {
		return min(loops+workers, cpus)
	}
	return min(loops, cpus) + 1
}

// setProcessors leaves the environment's GOMAXPROCS the last word.
func setProcessors(n int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n)
	}
}

// resolve is the first address that hostport stands for.
func resolve(ctx context.Context, hostport string) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	addrs, err := stepio.ResolveAddr(ctx, hostport)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return addrs[0], nil
}

// Pool is a pool of the given number of workers, which compute; nil for none.
// It ends with the server. Of Pool and Resolver one may be called, once.
func (s *Server) Pool(workers int) *stepio.Pool {
	if workers == 0 {
		return nil
	}
	setProcessors(processors(s.Group.Len(), workers, runtime.NumCPU()))
	return s.newPool(workers)
}

// Resolver is a pool of one worker, which waits for the resolver of names and
// needs no processor of its own.
func (s *Server) Resolver() *stepio.Pool { return s.newPool(1) }

func (s *Server) newPool(workers int) *stepio.Pool {
	if s.pool != nil {
		panic("cli: Server.Pool: called twice")
	}
	s.pool = stepio.NewPool(workers, 64*workers)
	return s.pool
}

// ListenTCP listens on every loop, and has each handle its listener.
func (s *Server) ListenTCP(handle func(*stepio.Loop, *stepio.TCPListener)) (netip.AddrPort, error) {
	return listen(s, func(l *stepio.Loop, addr netip.AddrPort, shared bool) (*stepio.TCPListener, error) {
		return stepio.ListenTCP(l, addr, stepio.ListenOptions{ReusePort: shared})
	}, (*stepio.TCPListener).Addr, handle)
}

// ListenUDP opens a socket on every loop, and has each handle its own.
func (s *Server) ListenUDP(handle func(*stepio.Loop, *stepio.UDPConn)) (netip.AddrPort, error) {
	return listen(s, func(l *stepio.Loop, addr netip.AddrPort, shared bool) (*stepio.UDPConn, error) {
		return stepio.ListenUDP(l, addr, stepio.ListenUDPOptions{ReusePort: shared, ReadBuffer: burst})
	}, (*stepio.UDPConn).LocalAddr, handle)
}

// burst is how many bytes of datagrams the kernel is asked to keep while the
// loop is busy. What comes on top of them is lost, and the kernel may grant less.
const burst = 1 << 20

// listen opens a socket on every loop, and has each handle its own. They share
// the address by SO_REUSEPORT, which would also let a second server in on it:
// so the first loop asks for the address alone, before, unless that is wanted.
func listen[S io.Closer](
	s *Server,
	open func(l *stepio.Loop, addr netip.AddrPort, shared bool) (S, error),
	addrOf func(S) netip.AddrPort,
	handle func(*stepio.Loop, S),
) (netip.AddrPort, error) {
	addr, shared := s.Addr, s.Group.Len() > 1 || s.reusePort
	err := s.Group.Each(func(i int, l *stepio.Loop) error {
		if i == 0 && shared && !s.reusePort {
			alone, err := open(l, addr, false)
			if err != nil {
				return err
			}
			addr = addrOf(alone) // with the port, where the kernel chose it
			if err := alone.Close(); err != nil {
				return err
			}
		}
		own, err := open(l, addr, shared)
		if err != nil {
			return err
		}
		addr = addrOf(own)
		handle(l, own)
		return nil
	})
	return addr, err
}

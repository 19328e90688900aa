package hostile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The role that is measured: one loop with everything that a peer may want of
// it. It says where it listens, and then answers commands.

// serverConfig is what a server is started with.
type serverConfig struct {
	Lazy   bool // listens on Lazy too
	Budget int  // of a step, times the default; 0: the default
}

// serverHello is where a server listens.
type serverHello struct {
	Level netip.AddrPort // accepts and serves level-triggered
	Edge  netip.AddrPort // edge-triggered
	Lazy  netip.AddrPort // level-triggered, and looks at its queue now and then only
	UDP   map[string]netip.AddrPort
	Epoll int // the loop's descriptor
}

// serverCommand is one of: stat; collect, stat after a garbage collection; room,
// have no more than N descriptors free; restore, have as many as before; hold,
// take N of them from outside the loop; drop, give those back; storm, send N
// datagrams from each of several sockets to ports where nobody is.
type serverCommand struct {
	Op string
	N  int
}

// serverStat is the answer to a command: how things stood after it.
type serverStat struct {
	Error         string
	Tasks         int // of the loop
	FDs           int // of the process
	Registrations int // of the loop's poller
	RSS, Heap     int // bytes
	CPU           time.Duration
	Ticks         int // of a task that looks at the clock ten times a second

	Opened, Closed, Twice int // frames of connections; closed a second time
	Ends                  map[string]int
	DeadOnArrival         int // connections that were reset before they were looked at

	Answered int // datagrams
	Refused  int // datagrams of the storm that nobody took
	Resumes  int // of the tasks of the storm
	Storming int // tasks of the storm that have not sent all

	Reports []string // of the loop
}

// server is the role. All but in and out is the loop's.
type server struct {
	loop    *stepio.Loop
	pool    *stepio.Pool
	epoll   int
	stat    serverStat
	message []byte // what a guest is sent who asks for more than it reads

	held  []int // by hold
	limit unix.Rlimit
}

func serverRole(in *json.Decoder, out *json.Encoder) (err error) {
	var config serverConfig
	if err := in.Decode(&config); err != nil {
		return err
	}
	s := &server{pool: stepio.NewPool(1, 1<<10), message: make([]byte, 4<<20)}
	defer s.pool.Join()
	defer s.pool.Stop()
	s.stat.Ends = map[string]int{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &s.limit); err != nil {
		return err
	}
	if err := startRuntimePoller(); err != nil {
		return err
	}
	s.epoll = newEpoll(func() {
		s.loop, err = stepio.NewLoop(stepio.WithReport(s.report), stepio.WithBudget(config.Budget*sm.DefaultMaxOps, config.Budget*sm.DefaultMaxBytes))
	})
	if err != nil {
		return err
	}
	hello, err := s.listen(config)
	if err != nil {
		return err
	}
	if err := out.Encode(hello); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		ended <- s.obey(in, out)
		s.loop.Stop()
	}()
	return errors.Join(s.loop.Run(), s.loop.Close(), <-ended)
}

func (s *server) report(t *sm.Task, err error) {
	if t != nil {
		err = fmt.Errorf("%s: %w", t.Chain(), err)
	}
	s.stat.Reports = append(s.stat.Reports, err.Error())
}

func (s *server) listen(config serverConfig) (hello serverHello, err error) {
	open := func() *stepio.TCPListener {
		ln, e := stepio.ListenTCP(s.loop, loopback, stepio.ListenOptions{})
		err = errors.Join(err, e)
		return ln
	}
	level, edge := open(), open()
	if err != nil {
		return hello, err
	}
	hello = serverHello{Epoll: s.epoll, Level: level.Addr(), Edge: edge.Addr(), UDP: map[string]netip.AddrPort{}}
	s.loop.Spawn(stepio.NewServe(level, func(c *stepio.TCPConn) sm.Frame { return newGuest(s, c, false) }))
	s.loop.Spawn(&acceptor{server: s, ln: edge})
	if config.Lazy {
		lazy := open()
		if err != nil {
			return hello, err
		}
		hello.Lazy = lazy.Addr()
		s.loop.Spawn(&acceptor{server: s, ln: lazy, every: 2 * time.Millisecond})
	}
	for name, kind := range datagramKinds {
		conn, err := stepio.ListenUDP(s.loop, loopback, stepio.ListenUDPOptions{})
		if err != nil {
			return hello, err
		}
		hello.UDP[name] = conn.LocalAddr()
		s.loop.Spawn(newAnswerer(s, conn, kind))
	}
	s.loop.Spawn(&ticker{server: s})
	return hello, nil
}

// obey carries out commands until there are no more. It is not the loop's
// goroutine.
func (s *server) obey(in *json.Decoder, out *json.Encoder) error {
	for {
		var c serverCommand
		if err := in.Decode(&c); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		err := s.act(c)
		stat := make(chan serverStat)
		if err := s.loop.Post(func() {
			if c.Op == "storm" {
				err = s.storm(c.N)
			}
			stat <- s.look()
		}); err != nil {
			return err
		}
		answer := <-stat
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// act is the part of a command that is not the loop's.
func (s *server) act(c serverCommand) error {
	switch c.Op {
	case "stat", "storm":
	case "collect":
		runtime.GC()
		debug.FreeOSMemory()
	case "room":
		return s.leaveRoom(c.N)
	case "restore":
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &s.limit)
	case "hold":
		return s.hold(c.N)
	case "drop":
		return s.drop()
	default:
		return fmt.Errorf("no command %q", c.Op)
	}
	return nil
}

func (s *server) hold(n int) error {
	for range n {
		fd, err := unix.Dup(1)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		s.held = append(s.held, fd)
	}
	return nil
}

func (s *server) drop() (err error) {
	for _, fd := range s.held {
		err = errors.Join(err, unix.Close(fd))
	}
	s.held = nil
	return err
}

// leaveRoom lowers the limit. It is one of numbers, and a descriptor gets the
// lowest number that is free.
func (s *server) leaveRoom(n int) error {
	before := s.held
	s.held = nil
	err := s.hold(n + 1)
	limit := s.limit
	if err == nil {
		limit.Cur = uint64(s.held[n])
	}
	err = errors.Join(err, s.drop())
	s.held = before
	if err != nil {
		return err
	}
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// look completes the counters.
func (s *server) look() serverStat {
	stat := s.stat
	stat.Tasks = s.loop.Tasks()
	if stat.FDs = openFDs(); stat.FDs >= 0 {
		stat.Registrations = registrations(s.epoll)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	stat.Heap, stat.RSS = int(m.HeapAlloc), resident()
	stat.CPU = cpuTime()
	stat.Ends = map[string]int{}
	for end, n := range s.stat.Ends { // answered from another goroutine
		stat.Ends[end] = n
	}
	stat.Reports = append([]string(nil), s.stat.Reports...)
	return stat
}

// resident is VmRSS of proc(5), in bytes.
func resident() int {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	var kib int
	if _, err := fmt.Sscan(after, &kib); err != nil {
		return -1
	}
	return kib << 10
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return -1
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// ticker is a task that has nothing to do with anybody: other tasks run on.
type ticker struct {
	server *server
	next   time.Time
}

// Step implements sm.Frame.
func (f *ticker) Step(t *sm.Task) sm.Await {
	if !t.Now().Before(f.next) {
		f.server.stat.Ticks++
		f.next = t.Now().Add(100 * time.Millisecond)
	}
	return sm.Park.Until(f.next)
}

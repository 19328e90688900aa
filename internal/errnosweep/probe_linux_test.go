package errnosweep

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The probe: what it is made of. What it does stands in probe_tcp_linux_test.go
// and probe_other_linux_test.go.

// patience is what an activity may take. Only one that a lie of the kernel has
// put to sleep needs it.
const patience = time.Second

// errPatience is the outcome of an activity that its deadline has ended.
var errPatience = errors.New("deadline")

// script is the frame of an activity: steps, each called until it is done.
type script struct {
	loop  *stepio.Loop
	until time.Time
	steps []step
	next  int
	owned []interface{ Close() error } // closed at the end, last first
	err   error
}

// step goes on with an activity: sm.Done, or what to wait for.
type step func(t *sm.Task) (sm.Await, error)

// own has c closed when the script ends.
func (s *script) own(c interface{ Close() error }) { s.owned = append(s.owned, c) }

// then adds steps.
func (s *script) then(steps ...step) { s.steps = append(s.steps, steps...) }

// do adds a step that never waits.
func (s *script) do(f func() error) {
	s.then(func(*sm.Task) (sm.Await, error) { return sm.Done, f() })
}

// Step implements sm.Frame.
func (s *script) Step(t *sm.Task) sm.Await {
	for s.next < len(s.steps) {
		if !t.Now().Before(s.until) {
			s.err = errPatience
			return sm.Done
		}
		a, err := s.steps[s.next](t)
		if err != nil {
			s.err = err
			return sm.Done
		}
		if a.Pending() {
			return a.By(s.until)
		}
		s.next++
	}
	return sm.Done
}

// Err is what the activity has failed with.
func (s *script) Err() error { return s.err }

// Close closes what the activity owns.
func (s *script) Close() error {
	var errs []error
	for i := len(s.owned) - 1; i >= 0; i-- {
		errs = append(errs, s.owned[i].Close())
	}
	return errors.Join(errs...)
}

// activity is one part of the probe's life.
type activity struct {
	name  string
	edge  bool // edge-triggered: an EAGAIN that lies ends it by its deadline
	write func(s *script)
}

// director is the frame that runs the activities, one after the other.
type director struct {
	loop     *stepio.Loop
	done     int
	current  *sm.Task
	reported []error // by frames' Close, of the current activity
	outcomes []error
}

// Step implements sm.Frame.
func (d *director) Step(t *sm.Task) sm.Await {
	for d.done < len(activities) {
		if d.current == nil {
			mark()
			s := &script{loop: d.loop, until: t.Now().Add(patience)}
			activities[d.done].write(s)
			d.current = t.Spawn(s)
		}
		if a := t.Join(d.current); a.Pending() {
			return a
		}
		d.outcomes = append(d.outcomes, errors.Join(append(d.reported, d.current.Err())...))
		d.current, d.reported = nil, nil
		d.done++
	}
	mark()
	d.loop.Stop()
	return sm.Done
}

// mark leaves a mark in strace's log.
func mark() { unix.Getppid() }

// The lines that are no activity's.
const (
	lineLoop        = "NewLoop"
	lineRun         = "Run"
	lineClose       = "Loop.Close"
	lineDescriptors = "descriptors"
	lineTasks       = "tasks"
	notFinished     = "not finished"
)

// refusing is where nobody listens.
var refusing netip.AddrPort

// probe lives the library's life and returns its report, a line each.
func probe() (lines []string) {
	say := func(name string, err error) { lines = append(lines, name+"\t"+describe(err)) }
	var err error
	if refusing, err = warmUp(); err != nil {
		panic("no loopback: " + err.Error())
	}
	before := openDescriptors()
	mark()
	d := new(director)
	loop, err := stepio.NewLoop(stepio.WithReport(func(_ *sm.Task, err error) { d.reported = append(d.reported, err) }))
	say(lineLoop, err)
	if err == nil {
		d.loop = loop
		task := loop.Spawn(d)
		say(lineRun, loop.Run())
		say(lineClose, loop.Close())
		if err := task.Err(); err != nil && err != sm.ErrDestroyed {
			say("director", err)
		}
	}
	mark()
	for i, a := range activities {
		if i < len(d.outcomes) {
			say(a.name, d.outcomes[i])
		} else {
			lines = append(lines, a.name+"\t"+notFinished)
		}
	}
	lines = append(lines, fmt.Sprintf("%s\t%d", lineDescriptors, openDescriptors()-before))
	return append(lines, fmt.Sprintf("%s\t%d", lineTasks, len(d.outcomes)))
}

// warmUp has the Go runtime open what it keeps for the life of the process, and
// takes a port that nobody listens on. All that on another thread.
func warmUp() (refusing netip.AddrPort, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		var ln net.Listener
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return
		}
		if err = ln.Close(); err != nil {
			return
		}
		refusing, err = boundOnly()
	}()
	<-done
	return refusing, err
}

// boundOnly is the address of a socket that is bound and does not listen. It
// stays open.
func boundOnly() (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: anyPort.Addr().As4()}); err != nil {
		return netip.AddrPort{}, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(anyPort.Addr(), uint16(name.(*unix.SockaddrInet4).Port)), nil
}

// openDescriptors is how many there are. Package os is not used: it would start
// the Go runtime's poller.
func openDescriptors() (n int) {
	for fd := range 256 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// describe is an outcome on one line: "ok", or the call that has failed, its
// errno, and the error.
func describe(err error) string {
	if err == nil {
		return "ok"
	}
	call, errno := "-", syscall.Errno(0)
	var sys *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &sys):
		call = sys.Syscall
	case errors.As(err, &op):
		call = op.Op
	}
	errors.As(err, &errno)
	name := unix.ErrnoName(errno)
	if name == "" {
		name = "-"
	}
	return fmt.Sprintf("%s\t%s\t%s", call, name, strings.ReplaceAll(err.Error(), "\n", "; "))
}

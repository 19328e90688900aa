package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/arrival"
)

// The role that measures: many connections, or datagram sockets, that send a
// little and wait for the answer. It is one thread over an epoll of its own and
// uses nothing of the library.
//
// Every connection pings once in each interval, one after the other, evenly
// spread. A ping that could not be sent when it was due, since the one before was
// not answered yet, is late from the moment it was due: a server that stalls does
// not get fewer pings for it.
//
// A ping's time ends when the kernel has the answer, and not when this process,
// which shares its processor with those who flood, gets to read it.

// pingerConfig is what a pinger is started with.
type pingerConfig struct {
	Addr     netip.AddrPort
	Conns    int
	Interval time.Duration // of one connection
	UDP      bool
}

// pingerCommand has it ping for so long.
type pingerCommand struct{ For time.Duration }

// pings is the answer. Every ping that was sent has been answered, or is lost.
type pings struct {
	Error         string
	N, Lost       int
	P50, P99, Max time.Duration
	CPU           float64 // of the pinger's processor, 0 to 1
}

// ping has the pinger ping for so long.
func (c *child) ping(d time.Duration) pings {
	c.t.Helper()
	c.send(pingerCommand{For: d})
	return c.pinged()
}

// pinged is the answer to a command that was sent.
func (c *child) pinged() (p pings) {
	c.t.Helper()
	c.receive(&p)
	if p.Error != "" {
		c.t.Fatal(p.Error)
	}
	return p
}

const pingSize = 64

// lossAfter is when an answer will not come any more, however busy the machine is.
const lossAfter = patience / 2

type pinger struct {
	config pingerConfig
	epoll  int
	conns  []pingedConn
	base   time.Time
	took   []time.Duration
	under  int // pings that are not answered
	buf    [pingSize]byte
	oob    [arrival.Room]byte
}

type pingedConn struct {
	fd      int
	since   time.Duration // when the ping under way was sent, or due; 0: none
	missing int           // bytes of its answer
	late    time.Duration // when the next was due; 0: it is not
}

func pingerRole(in *json.Decoder, out *json.Encoder) error {
	var p pinger
	if err := in.Decode(&p.config); err != nil {
		return err
	}
	// A timeout may be 50 µs late by default (prctl(2), PR_SET_TIMERSLACK).
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	p.base = time.Now().Round(0).Add(-time.Second) // the clock is never 0
	if err := p.open(); err != nil {
		return err
	}
	for {
		var c pingerCommand
		if err := in.Decode(&c); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := out.Encode(p.run(c.For)); err != nil {
			return err
		}
	}
}

func (p *pinger) open() (err error) {
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	for i := range p.config.Conns {
		fd, err := p.connect()
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		if err := arrival.Note(fd); err != nil {
			return err
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
		if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return os.NewSyscallError("epoll_ctl", err)
		}
		p.conns = append(p.conns, pingedConn{fd: fd})
	}
	return nil
}

func (p *pinger) connect() (fd int, err error) {
	if p.config.UDP {
		if fd, err = bindUDP(); err != nil {
			return -1, err
		}
		return fd, os.NewSyscallError("connect", unix.Connect(fd, sockaddr(p.config.Addr)))
	}
	if fd, err = dial(p.config.Addr, 0, 0); err != nil {
		return -1, err
	}
	_, err = unix.Write(fd, []byte{wantEcho})
	return fd, os.NewSyscallError("write", err)
}

// clock is never 0. It is the kernel's clock for arrivals, not the monotonic one.
func (p *pinger) clock() time.Duration { return time.Now().Round(0).Sub(p.base) }

// run pings until the time is over, and then waits for what is under way.
func (p *pinger) run(d time.Duration) (r pings) {
	cpu, begun := cpuTime(), p.clock()
	err := p.pingFor(d)
	if err != nil {
		return pings{Error: "pinger: " + err.Error()}
	}
	r.N, r.Lost = len(p.took), p.under
	slices.Sort(p.took)
	if n := len(p.took); n > 0 {
		r.P50, r.P99, r.Max = p.took[n/2], p.took[n*99/100], p.took[n-1]
	}
	r.CPU = float64(cpuTime()-cpu) / float64(p.clock()-begun)
	return r
}

func (p *pinger) pingFor(d time.Duration) error {
	p.took, p.under = p.took[:0], 0
	for i := range p.conns {
		p.conns[i].since, p.conns[i].late, p.conns[i].missing = 0, 0, 0
	}
	begun := p.clock()
	stop := begun + d
	gap := p.config.Interval / time.Duration(len(p.conns))
	events := make([]unix.EpollEvent, 512)
	for due, next := begun, 0; ; {
		now := p.clock()
		for due <= now && due < stop {
			if err := p.due(next, due); err != nil {
				return err
			}
			due += gap
			next = (next + 1) % len(p.conns)
		}
		if now >= stop && (p.under == 0 || now >= stop+lossAfter) {
			return nil
		}
		limit := lossAfter
		if due < stop {
			limit = due - now
		} else if now < stop {
			limit = stop - now
		}
		n, err := epollWait(p.epoll, events, max(limit, 0))
		if err != nil {
			return err
		}
		for _, ev := range events[:n] {
			if err := p.receive(int(ev.Fd), stop); err != nil {
				return err
			}
		}
	}
}

// due sends the ping of a connection, or leaves it to the answer of the one
// before.
func (p *pinger) due(i int, due time.Duration) error {
	c := &p.conns[i]
	if c.since != 0 {
		if c.late == 0 {
			c.late = due
		}
		return nil
	}
	return p.send(i, p.clock())
}

func (p *pinger) send(i int, since time.Duration) error {
	c := &p.conns[i]
	c.since, c.missing, c.late = since, pingSize, 0
	p.under++
	n, err := unix.Write(c.fd, p.buf[:])
	if err != nil || n != pingSize {
		return fmt.Errorf("connection %d: %d bytes written: %w", i, n, err)
	}
	return nil
}

// receive takes what has come, and pings again where one is due.
func (p *pinger) receive(i int, stop time.Duration) error {
	c := &p.conns[i]
	n, at, err := arrival.Receive(c.fd, p.buf[:], p.oob[:])
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil || n == 0:
		return fmt.Errorf("connection %d: %d bytes read: %w", i, n, err)
	case c.since == 0:
		return fmt.Errorf("connection %d: an answer to nothing", i)
	}
	if c.missing -= n; c.missing > 0 {
		return nil
	}
	now := p.clock()
	p.took = append(p.took, at.Sub(p.base)-c.since)
	p.under--
	c.since = 0
	if now < stop && c.late != 0 {
		return p.send(i, c.late)
	}
	return nil
}

// epollWait is epoll_pwait2(2), which counts in nanoseconds.
func epollWait(epoll int, events []unix.EpollEvent, limit time.Duration) (n int, err error) {
	timeout := unix.NsecToTimespec(int64(limit))
	for {
		r, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
		if errno == 0 {
			return int(r), nil
		}
		if errno != unix.EINTR {
			return 0, os.NewSyscallError("epoll_pwait2", errno)
		}
	}
}

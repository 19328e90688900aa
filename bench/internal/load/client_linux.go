package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

// Main is the process "bench load": it answers each Command of in by a Reply on
// out until in ends. What a server does wrong is in the Reply; the error is of
// the input or the output themselves, or of the process's own setup. It is for a
// process that does nothing else: the calling goroutine keeps its thread, and what
// it opens, no other thread can use.
func Main(in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	if err := raiseFiles(); err != nil {
		return err
	}
	if err := ownFiles(); err != nil {
		return err
	}
	return answer(in, out)
}

// answer is Main without what concerns the whole process.
func answer(in io.Reader, out io.Writer) (err error) {
	c, err := newClient()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.release()) }()
	commands, replies := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var cmd Command
		if err := commands.Decode(&cmd); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("bench: a command: %w", err)
		}
		if err := replies.Encode(c.do(cmd)); err != nil {
			return fmt.Errorf("bench: a reply: %w", err)
		}
	}
}

const (
	// waitMillis bounds a wait that the Go scheduler is not told of.
	waitMillis = 5
	// batch is how many connections are opened side by side: less than the
	// shortest queue that a server's listen(2) asks for.
	batch = 100
	// maxEvents is how many events are taken at once.
	maxEvents = 512
	// longest is the longest latency that can be recorded.
	longest = 60 * time.Second
)

// The classes of sockets. Class and index are in a socket's epoll data, and
// together they are the number of its connection.
const (
	active = iota
	idle
	publisher
	classes
)

const (
	classShift = 30
	indexMask  = 1<<classShift - 1
)

// A handler owns the sockets of one class.
type handler interface {
	// ready handles one event of socket i.
	ready(i, events uint32) error
	// unanswered is how many sockets an answer is due on, of how many.
	unanswered() (k, n int)
	// close closes all sockets.
	close() error
}

// A client runs one load at a time. It is used by one goroutine.
type client struct {
	epfd   int
	base   time.Time // what clock counts from
	events []unix.EpollEvent
	buf    []byte // what was received; every class uses it
	hist   *hdrhistogram.Histogram

	stall     time.Duration // without an answer for so long, the server has failed
	loss      time.Duration // without an answer for so long, a datagram is lost
	perSource int           // sockets that share one local address

	spec     Spec
	target   netip.AddrPort
	sockaddr sockaddr
	handlers [classes]handler // nil while there are none of the class
	begin    func() error     // sends what is to be under way from the start
	udp      *datagrams
	sockets  int // open ones

	now      int64 // the clock as it was last read
	progress int64 // when something last came
	stop     int64 // when the window ends: after it nothing new is sent
	under    int   // messages under way
	done     int64 // requests of this window
	lost     int64 // datagrams
}

func newClient() (*client, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("bench: epoll_create1: %w", err)
	}
	return &client{
		epfd: epfd, base: time.Now(), events: make([]unix.EpollEvent, maxEvents), buf: make([]byte, chunk),
		hist:  hdrhistogram.New(1, int64(longest), 3),
		stall: 5 * time.Second, loss: 200 * time.Millisecond, perSource: 8192,
	}, nil
}

// release gives back all that the client holds.
func (c *client) release() error { return errors.Join(c.close(), unix.Close(c.epfd)) }

// clock is the monotonic clock in nanoseconds. A window reads it once for each receive
// that brings something, right after it: that instant is the end of the
// messages received and the begin of those that replace them. One that brought
// more than a few KiB reads it again before the send, since to verify so much
// takes longer than a microsecond.
func (c *client) clock() int64 { return int64(time.Since(c.base)) }

// do carries out one command. After a failure nothing is left open.
func (c *client) do(cmd Command) Reply {
	var w Window
	var err error
	switch cmd.Op {
	case "open":
		err = c.open(cmd.Spec)
	case "idle":
		err = c.setIdle(cmd.Idle)
	case "run":
		w, err = c.run(cmd.Window, cmd.PID)
	case "close":
		err = c.close()
	default:
		err = fmt.Errorf("unknown operation %q", cmd.Op)
	}
	if err != nil {
		if e := c.close(); e != nil {
			err = fmt.Errorf("%w (and then %w)", err, e)
		}
		return Reply{Error: err.Error()}
	}
	return Reply{Window: w}
}

// open makes the connections of a load and sends one message over each, so that
// the server is known to have accepted it.
func (c *client) open(spec Spec) error {
	if c.begin != nil {
		return errors.New("open: the last load is not closed")
	}
	if err := spec.validate(); err != nil {
		return fmt.Errorf("open: %w", err)
	}
	target, err := netip.ParseAddrPort(spec.Addr)
	if err != nil || !target.Addr().Is4() {
		return fmt.Errorf("open: %q is not an IPv4 address and port", spec.Addr)
	}
	c.spec, c.target, c.sockaddr = spec, target, toSockaddr(target.Addr(), target.Port())
	switch spec.Kind {
	case UDP:
		err = c.openDatagrams()
	case Fanout:
		err = c.openFanout()
	default:
		err = c.openStreams()
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	return nil
}

func (s Spec) validate() error {
	least, smallest, biggest := 0, 16, 1<<30
	switch s.Kind {
	case Echo:
	case Paced:
		least = 1
	case HTTP:
		smallest = 0
	case UDP:
		least, biggest = 1, 65507 // the longest datagram of IPv4
	case Churn:
		least = 1
	case Fanout:
		least, smallest, biggest = 1, contend.FanoutSize, contend.FanoutSize
	default:
		return fmt.Errorf("unknown kind %q", s.Kind)
	}
	switch {
	case s.Conns < least || s.Conns > indexMask:
		return fmt.Errorf("%s: %d connections", s.Kind, s.Conns)
	case s.Size < smallest || s.Size > biggest:
		return fmt.Errorf("%s: messages of %d bytes", s.Kind, s.Size)
	case s.Depth < 1 || s.Depth > 1 && (s.Kind == Churn || s.Kind == Fanout || s.Kind == Paced):
		return fmt.Errorf("%s: depth %d", s.Kind, s.Depth)
	case s.Pace < 0 || (s.Pace > 0) != (s.Kind == Paced):
		return fmt.Errorf("%s: a pace of %v", s.Kind, s.Pace)
	}
	return nil
}

// source is the local address of the next socket: the invalid one, which lets
// the kernel choose, for the first perSource sockets, then another address for
// each further perSource, because connect(2) takes long to find one of the last
// free ports of an address.
func (c *client) source() netip.Addr {
	n := c.sockets / c.perSource
	if n == 0 || !c.target.Addr().IsLoopback() {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + min(n, 250))})
}

// socket opens one socket to the server.
func (c *client) socket(kind int) (int32, error) {
	fd, err := sysSocket(kind, &c.sockaddr, c.source())
	if err == nil {
		c.sockets++
	}
	return fd, err
}

func (c *client) closeSocket(fd int32) error {
	c.sockets--
	return sysClose(fd)
}

// close closes all sockets with resets.
func (c *client) close() error {
	var errs []error
	for i, h := range c.handlers {
		if h != nil {
			errs = append(errs, h.close())
			c.handlers[i] = nil
		}
	}
	c.begin, c.udp, c.under = nil, nil, 0
	return errors.Join(errs...)
}

// turn waits for events and handles them.
func (c *client) turn(milliseconds int) error {
	n, err := sysWait(c.epfd, c.events, milliseconds)
	if err != nil {
		return err
	}
	if n == 0 {
		c.now = c.clock()
	}
	for i := range n {
		ev := &c.events[i]
		if err := c.handlers[ev.Pad].ready(uint32(ev.Fd), ev.Events); err != nil {
			return err
		}
	}
	return nil
}

// await returns when nothing is under way.
func (c *client) await() error {
	limit := max(c.stop, c.now) + 12*int64(c.stall)
	for c.under > 0 {
		if err := c.turn(waitMillis); err != nil {
			return err
		}
		if c.udp != nil {
			if err := c.udp.scan(); err != nil {
				return err
			}
		}
		if c.now-c.progress > int64(c.stall) {
			return c.stalled()
		}
		if c.now > limit {
			return fmt.Errorf("%d messages still under way after %v", c.under, 12*c.stall)
		}
	}
	return nil
}

func (c *client) stalled() error {
	waiting, all := 0, 0
	for _, h := range c.handlers {
		if h != nil {
			k, n := h.unanswered()
			waiting, all = waiting+k, all+n
		}
	}
	return fmt.Errorf("no answer for %v from %d of %d connections", c.stall, waiting, all)
}

// arm tells epoll what to wait for on a socket.
func (c *client) arm(op int, fd int32, class, i, mask uint32) error {
	return sysControl(c.epfd, op, fd, &unix.EpollEvent{Events: mask, Fd: int32(i), Pad: int32(class)})
}

// record counts one request that began at sent and ended now.
func (c *client) record(sent int64) error {
	c.done++
	return c.hist.RecordValue(c.now - sent)
}

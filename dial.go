//go:build linux || darwin

package stepio

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// DialOptions says how to connect. The zero value is what most clients want.
type DialOptions struct {
	// Local is the address to connect from. Not valid: the kernel chooses.
	Local netip.AddrPort
	// Deadline ends the attempt with os.ErrDeadlineExceeded. Zero: the kernel
	// gives up after its own time, with syscall.ETIMEDOUT.
	Deadline time.Time
	// Delay leaves Nagle's algorithm on.
	Delay bool
}

// A Dial is the frame that connects:
//
//	f.dial = stepio.DialTCP(loop, addr, stepio.DialOptions{})
//	...
//	if a := f.dial.Step(t); a.Pending() {
//		return a
//	}
//	conn, err := f.dial.Result()
//
// Close, in its owner's Close, ends an attempt and closes a connection that
// Result has not handed over. So a Dial is a callee, not a task: a frame that is
// given to Spawn, All, Any or Call takes the Result in a step of its own, and
// keeps it in an embedded sm.Returns[*TCPConn].
type Dial struct {
	loop    *Loop
	addr    netip.AddrPort
	options DialOptions
	conn    *TCPConn
	err     error
	state   dialState
}

type dialState uint8

const (
	dialStarting   dialState = iota // no socket yet
	dialConnecting                  // waits until the socket is connected, or is not
	dialDone                        // conn or err is the result
)

// String is the state by name, for Dump.
func (s dialState) String() string {
	return [...]string{"dialStarting", "dialConnecting", "dialDone"}[s]
}

// DialTCP is a frame that connects to addr on loop. Nothing happens before its
// first Step.
func DialTCP(loop *Loop, addr netip.AddrPort, options DialOptions) Dial {
	return Dial{loop: loop, addr: addr, options: options}
}

// Step runs until the connection is made or has failed.
func (d *Dial) Step(t *sm.Task) sm.Await {
	switch d.state {
	case dialStarting:
		if err := d.start(); err != nil || d.conn == nil {
			return d.end(err)
		}
		d.state = dialConnecting
	case dialConnecting:
		if err := t.WaitErr(); err != nil {
			return d.end(err)
		}
		if connected, err := d.look(); connected || err != nil {
			return d.end(err)
		}
	case dialDone:
		return sm.Done
	default:
		panic("stepio: Dial.Step: state " + d.state.String())
	}
	if !d.options.Deadline.IsZero() && !t.Now().Before(d.options.Deadline) {
		return d.end(os.ErrDeadlineExceeded)
	}
	return d.conn.Writable().By(d.options.Deadline)
}

// start opens the socket and begins to connect.
func (d *Dial) start() error {
	if !d.addr.IsValid() {
		return syscall.EINVAL
	}
	l, addr := d.loop, unmapped(d.addr)
	fd, errno := l.sys.socket(familyOf(addr), unix.SOCK_STREAM)
	if errno != 0 {
		return os.NewSyscallError("socket", errno)
	}
	d.conn = newTCPConn(l, fd, false)
	if !d.options.Delay {
		if err := d.conn.SetNoDelay(true); err != nil {
			return err
		}
	}
	if d.options.Local.IsValid() {
		if errno := l.sys.bind(fd, mapped(familyOf(addr), unmapped(d.options.Local))); errno != 0 {
			return os.NewSyscallError("bind", errno)
		}
	}
	switch errno := l.sys.connect(fd, addr); errno {
	case 0, unix.EINPROGRESS:
		return nil
	default:
		return os.NewSyscallError("connect", errno)
	}
}

// look finds out what has become of the attempt: SO_ERROR has its failure, and
// a socket with no peer and no error is still connecting.
func (d *Dial) look() (connected bool, err error) {
	fd := int(d.conn.fd)
	value, errno := d.loop.sys.option(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if errno != 0 {
		return false, os.NewSyscallError("getsockopt", errno)
	}
	if value != 0 {
		return false, os.NewSyscallError("connect", syscall.Errno(value))
	}
	far, errno := d.loop.sys.remoteAddr(fd)
	switch errno {
	case unix.ENOTCONN:
		return false, nil
	case unix.EINVAL: // macOS, of a socket whose both directions are over: it was reset after all
		errno = unix.ECONNRESET
	}
	if errno != 0 {
		return false, os.NewSyscallError("getpeername", errno)
	}
	if near := d.conn.LocalAddr(); near == far && !d.options.Local.IsValid() {
		// TCP's simultaneous open, with oneself: nobody listens on that port, and
		// the kernel happened to choose it for this end.
		return false, os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return true, nil
}

func (d *Dial) end(err error) sm.Await {
	d.state = dialDone
	if err != nil {
		d.err = netError("dial", "tcp", err, d.options.Local, d.addr)
		if d.conn != nil {
			_ = d.conn.Close() // the attempt's error is the one to return
			d.conn = nil
		}
	}
	return sm.Done
}

// Result is what became of the attempt, and hands the connection over. The
// result is one of: a connection and nil; nil and a *net.OpError, in which
// errors.Is finds syscall.ECONNREFUSED, syscall.ETIMEDOUT,
// os.ErrDeadlineExceeded and so on; nil and sm.ErrNoResult before the end, and
// after the connection was handed over.
func (d *Dial) Result() (*TCPConn, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.state != dialDone || d.conn == nil {
		return nil, sm.ErrNoResult
	}
	conn := d.conn
	d.conn = nil
	return conn, nil
}

// Err is the error that the attempt has failed with.
func (d *Dial) Err() error { return d.err }

// Close ends an attempt, and closes a connection that Result has not handed over.
func (d *Dial) Close() error {
	d.state = dialDone
	if d.conn == nil {
		return nil
	}
	conn := d.conn
	d.conn = nil
	return conn.Close()
}

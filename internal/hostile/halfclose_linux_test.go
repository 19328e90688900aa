package hostile

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The half-close matrix. Near is the library's end: a task that reads and a task
// that writes. Far is a connection of package net. One of them finishes (shutdown,
// SHUT_WR), resets (close with SO_LINGER 0), does both, or closes, while near is
// idle, has input that it has not read, as much as the kernel holds, or output
// that the kernel holds, as much as it takes, and more that it waits to write.
//
// What both must see then (RFC 9293, 3.6 and 3.10.7; RFC 1122, 4.2.2.13; tcp(7)):
//
//   - who finishes ends its own direction after all that it has sent, and the
//     other direction goes on;
//   - a reset loses what is on its way in both directions. What the other has
//     received by then it can read first, and then a reset, never an end of input;
//     but an end of input that came before it stays one;
//   - who closes finishes, but for one case: with unread input it resets;
//   - near's tasks that wait on a connection which near closes get net.ErrClosed.

// cell is one case of the matrix: who does what, when, and what is seen then.
type cell struct {
	who, act, state string
	near, far       view
}

// view is what one end sees: how much of what the other has sent, how that ends,
// and what a write comes to afterwards.
type view struct {
	got        string // all, part, or none
	end, write error
}

var (
	errGone = errors.New("reset or broken pipe") // whichever comes first
	errAny  = errors.New("not looked at")        // it has closed its socket
)

// String is the view in the table.
func (v view) String() string {
	if v.end == errAny {
		return "-"
	}
	end := "end of input"
	if v.end != io.EOF {
		end = v.end.Error()
	}
	write := "goes on"
	if v.write != nil {
		write = v.write.Error()
	}
	return fmt.Sprintf("%s, then %s; write: %s", v.got, end, write)
}

var (
	closed = view{"none", net.ErrClosed, net.ErrClosed} // by itself
	// Its writer was waiting, and is told of the FIN before the close.
	closedTwice = view{"none", net.ErrClosed, syscall.EPIPE}
	away        = view{end: errAny}
	finished    = view{"all", io.EOF, syscall.EPIPE} // what it gets goes on
	ended       = view{"all", io.EOF, nil}           // and may go on to send
	fooled      = view{"all", io.EOF, errGone}       // a reset came after the end
	cut         = view{"part", syscall.ECONNRESET, errGone}
	dropped     = view{"none", syscall.ECONNRESET, errGone}
)

var matrix = []cell{
	{"near", "FIN", "idle", finished, ended},
	{"near", "FIN", "unread input", finished, ended},
	{"near", "FIN", "unsent output", finished, ended},
	{"near", "RST", "idle", closed, dropped},
	{"near", "RST", "unread input", closed, dropped},
	{"near", "RST", "unsent output", closed, cut},
	{"near", "FIN, RST", "idle", closed, fooled},
	{"near", "FIN, RST", "unread input", closed, fooled},
	{"near", "FIN, RST", "unsent output", closedTwice, cut}, // the end of input was behind it
	{"far", "FIN", "idle", ended, finished},
	{"far", "FIN", "unread input", ended, finished},
	{"far", "FIN", "unsent output", ended, finished},
	{"far", "RST", "idle", dropped, away},
	{"far", "RST", "unread input", cut, away},
	{"far", "RST", "unsent output", dropped, away},
	{"far", "FIN, RST", "idle", fooled, away},
	{"far", "FIN, RST", "unread input", cut, away},
	{"far", "FIN, RST", "unsent output", fooled, away},
	{"near", "close", "idle", closed, fooled},
	{"near", "close", "unread input", closed, dropped},
	{"near", "close", "unsent output", closed, fooled},
	{"far", "close", "idle", fooled, away},
	{"far", "close", "unread input", fooled, away},
	{"far", "close", "unsent output", dropped, away},
}

func TestTCPConnHalfCloseMatrix(t *testing.T) {
	r := newRig(t)
	arrivals := make(chan *nearEnd, 1)
	edge := false // the loop's
	ln := r.listen(nil, func(c *stepio.TCPConn) sm.Frame {
		n := newNearEnd(c, edge)
		arrivals <- n
		return n
	})
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "who\tdoes\twhile near has\tnear sees\tfar sees\tlevel\tedge")
	met, cells := 0, 0
	for _, c := range matrix {
		var verdicts []string
		for _, mode := range []bool{false, true} {
			r.do(func() { edge = mode })
			verdict := "as stated"
			name := fmt.Sprintf("%s %s %s edge=%v", c.who, c.act, c.state, mode)
			if t.Run(name, func(sub *testing.T) {
				r.t = sub
				defer func() { r.t = t }()
				t := sub
				before := r.standing()
				far, err := net.Dial("tcp", ln.Addr().String())
				require.NoError(t, err)
				x := &crossing{t: t, rig: r, cell: c, near: <-arrivals, far: far.(*net.TCPConn)}
				x.run()
				assert.NoError(t, x.closeFar())
				r.until("near is closed", func() bool { return x.near.closes > 0 && r.loop.Tasks() == before.Tasks })
				r.do(func() { assert.Equal(t, 1, x.near.closes, "frame closed") })
				assert.Equal(t, before, r.standing(), "left behind")
			}) {
				met++
			} else {
				verdict = "NO"
			}
			cells++
			verdicts = append(verdicts, verdict)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%v\t%s\n", c.who, c.act, c.state, c.near, c.far, strings.Join(verdicts, "\t"))
	}
	require.NoError(t, w.Flush())
	t.Log("the half-close matrix\n" + b.String())
	figure("half-close matrix: cells, level- and edge-triggered, as stated", fmt.Sprintf("%d of %d", met, cells), "all", met == cells)
}

// crossing is one run of a cell.
type crossing struct {
	t    *testing.T
	rig  *rig
	cell cell
	near *nearEnd
	far  *net.TCPConn

	farSent int // bytes
}

// Bytes that an end sends when all is said: fewer than any buffer.
const tailSize = 1000

func (x *crossing) run() {
	x.prepare()
	x.act()
	if x.cell.who == "near" {
		x.observeFar()
	}
	// First what is there is read: to write to who has closed loses what it has sent.
	x.read()
	x.rig.until("near has read to the end", func() bool { return x.near.reader.over })
	tails := 1
	if x.cell.near.write == errGone {
		tails = 3 // the first may be accepted, and is answered by a reset
	}
	x.rig.do(func() { x.near.writer.begin(writerTailing, tails) })
	if x.cell.who == "far" && x.cell.far != away {
		x.farReads(x.cell.far)
		x.farWrites()
	}
	x.rig.until("near has written", func() bool { return x.near.writer.over })
	x.compareNear()
}

// prepare brings near into its state.
func (x *crossing) prepare() {
	switch x.cell.state {
	case "idle":
	case "unread input":
		x.rig.until("near reads", func() bool { return x.near.reader.waits })
		x.rig.do(func() {
			x.near.reader.hold = true
			x.near.reader.wake()
		})
		x.rig.until("near does not read", func() bool { return x.near.reader.held })
		x.fillFar()
	case "unsent output":
		x.rig.do(func() { x.near.writer.begin(writerFilling, 0) })
		x.rig.until("near is blocked", func() bool { return x.near.writer.state == writerBlocked })
	}
	x.rig.until("near waits", func() bool { return x.near.reader.waits && x.near.writer.waits })
}

// act does what the cell says.
func (x *crossing) act() {
	finish := strings.HasPrefix(x.cell.act, "FIN")
	abort := strings.HasSuffix(x.cell.act, "RST")
	if x.cell.who == "near" {
		c := x.near.conn
		if finish {
			x.rig.do(func() { assert.NoError(x.t, c.CloseWrite()) })
		}
		switch {
		case !finish || !abort:
		case x.cell.state == "unsent output":
			x.rig.until("the writer is told", func() bool { return x.near.writer.over })
		default:
			x.awaitEnd(x.farFD())
		}
		if finish && !abort {
			return
		}
		x.rig.do(func() {
			if abort {
				assert.NoError(x.t, c.SetLinger(0))
			}
			assert.NoError(x.t, c.Close())
		})
		return
	}
	if finish {
		require.NoError(x.t, x.far.CloseWrite())
	}
	if finish && abort && x.cell.state != "unread input" {
		var fd int
		x.rig.do(func() { fd = x.near.conn.FD() })
		x.awaitEnd(fd)
	}
	if finish && !abort {
		return
	}
	if abort {
		require.NoError(x.t, x.far.SetLinger(0))
	}
	require.NoError(x.t, x.far.Close())
}

// observeFar compares what far sees of what near has done.
func (x *crossing) observeFar() {
	x.farReads(x.cell.far)
	if x.cell.far.write == nil {
		x.read() // or far's connection may be full
		n, err := x.far.Write(pattern(x.farSent, tailSize))
		require.NoError(x.t, err, "far: write")
		x.farSent += n
		require.NoError(x.t, x.far.CloseWrite())
		return
	}
	x.farWrites()
}

// farWrites compares what far's writes come to.
func (x *crossing) farWrites() {
	var err error
	for range 3 { // as near's tails
		if _, err = x.far.Write(pattern(x.farSent, tailSize)); err != nil {
			break
		}
	}
	assert.True(x.t, same(x.cell.far.write, err), "far: write: %v, want %v", err, x.cell.far.write)
}

// farReads compares what far reads.
func (x *crossing) farReads(want view) {
	require.NoError(x.t, x.far.SetDeadline(time.Now().Add(patience)))
	got, err := check(x.far)
	if err == nil {
		err = io.EOF
	}
	sent := 0
	x.rig.do(func() { sent = x.near.writer.sent })
	assert.Equal(x.t, want.got, amount(want.got, got, sent), "far got %d of %d bytes", got, sent)
	assert.True(x.t, same(want.end, err), "far: read: %v, want %v", err, want.end)
}

// read has near's reader go on.
func (x *crossing) read() {
	x.rig.do(func() {
		x.near.reader.hold = false
		x.near.reader.wake()
	})
}

func (x *crossing) compareNear() {
	n := x.near
	x.rig.do(func() {
		assert.False(x.t, n.reader.wrong, "near got other bytes than were sent")
		want := x.cell.near
		assert.Equal(x.t, want.got, amount(want.got, n.reader.got, x.farSent), "near got %d of %d bytes", n.reader.got, x.farSent)
		assert.True(x.t, same(want.end, n.reader.err), "near: read: %v, want %v", n.reader.err, want.end)
		assert.True(x.t, same(want.write, n.writer.err), "near: write: %v, want %v", n.writer.err, want.write)
	})
}

// amount is what n of all are, in favour of want where all are none.
func amount(want string, n, all int) string {
	switch {
	case n == all && (all > 0 || want == "all"):
		return "all"
	case n == 0:
		return "none"
	case n < all:
		return "part"
	}
	return "more than was sent"
}

// same reports whether err is what is wanted.
func same(want, err error) bool {
	if want == errGone {
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	}
	return errors.Is(err, want)
}

// fillFar sends until far's connection takes no more.
func (x *crossing) fillFar() {
	raw, err := x.far.SyscallConn()
	require.NoError(x.t, err)
	require.NoError(x.t, raw.Write(func(fd uintptr) bool {
		for {
			n, err := unix.Write(int(fd), pattern(x.farSent, 64<<10))
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				assert.Equal(x.t, unix.EAGAIN, err)
				return true
			}
			x.farSent += n
		}
	}))
	require.Positive(x.t, x.farSent)
}

func (x *crossing) farFD() (fd int) {
	raw, err := x.far.SyscallConn()
	require.NoError(x.t, err)
	require.NoError(x.t, raw.Control(func(p uintptr) { fd = int(p) }))
	return fd
}

// awaitEnd waits until the other's end has arrived at a socket.
func (x *crossing) awaitEnd(fd int) {
	n, err := awaitFDs([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, patience)
	require.NoError(x.t, err)
	require.Equal(x.t, 1, n, "the end of input arrives")
}

// closeFar closes far, where the cell has not.
func (x *crossing) closeFar() error {
	if err := x.far.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

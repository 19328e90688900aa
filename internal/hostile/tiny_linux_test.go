package hostile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/testseed"
	"github.com/stepio-go/stepio/sm"
)

// Streams through small socket buffers at both ends, and reads of a few hundred
// bytes: nearly every write is partial, and every read leaves something. What
// comes back has the SHA-256 of what was sent.

const (
	// tinySend is less than the kernel grants: it takes its least, 4,608 bytes.
	tinySend = 1
	// tinyReceive is tcp_rmem's least (tcp(7)), and tinySegment a good deal less. A
	// sender with more to send waits until the window has room for a segment (RFC
	// 1122, 4.2.3.4): with segments of half the window, as TCP would choose them
	// here, one would see it wait for its persist timer, at a few KB a second.
	tinyReceive = 4096
	tinySegment = 536
	// tinyRead is the most that an echo reads at a time.
	tinyRead = 512
	// tinyStreams share the bytes, side by side: one alone has a round trip every
	// few KB, and leaves the machine idle in between.
	tinyStreams = 8
)

func TestStreamsThroughTinyBuffers(t *testing.T) {
	for _, c := range []struct {
		name  string
		share float64 // of the bytes
		start func(t *testing.T, r *rig) string
	}{
		{"an echo of small reads, level-triggered", 0.25, func(_ *testing.T, r *rig) string {
			return r.listen(tinyOptions, func(c *stepio.TCPConn) sm.Frame { return &tinyEcho{conn: c} }).Addr().String()
		}},
		{"an echo of small reads, edge-triggered", 0.25, func(_ *testing.T, r *rig) string {
			return r.listen(tinyOptions, func(c *stepio.TCPConn) sm.Frame { return &tinyEcho{conn: c, edge: true} }).Addr().String()
		}},
		{"two Copy frames to an echo, and back", 0.5, func(_ *testing.T, r *rig) string {
			to := r.listen(tinyOptions, func(c *stepio.TCPConn) sm.Frame { return &tinyEcho{conn: c} })
			return r.listen(tinyOptions, func(c *stepio.TCPConn) sm.Frame { return newRelay(r, c, to) }).Addr().String()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			rnd := testseed.Rand(t)
			r := newRig(t)
			addr := c.start(t, r)
			before := r.standing()
			each := int(float64(size(1<<30, 8<<20)) * c.share / tinyStreams)
			begun := time.Now()
			var all sync.WaitGroup
			equal := make([]bool, tinyStreams)
			for i := range tinyStreams {
				seed := rnd.Uint64()
				all.Go(func() {
					sent, got, err := tinyClient(addr, each, seed)
					assert.NoError(t, err)
					equal[i] = assert.Equal(t, sent, got)
				})
			}
			all.Wait()
			took := time.Since(begun)
			n := 0
			for _, ok := range equal {
				if ok {
					n++
				}
			}
			bytes := each * tinyStreams
			behaves(t, fmt.Sprintf("%d MiB through tiny buffers, %s: streams with equal SHA-256", bytes>>20, c.name),
				fmt.Sprintf("%d of %d, in %.1f s (%.0f MiB/s)", n, tinyStreams, took.Seconds(), mibs(bytes, took)), "all", n == tinyStreams)
			r.until("all connections are closed", func() bool { return r.loop.Tasks() == before.Tasks })
			assert.Equal(t, before, r.standing(), "left behind")
		})
	}
}

// tinyOptions makes the buffers of a socket small, before it is connected.
func tinyOptions(fd int) error {
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, tinySend),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, tinyReceive),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, tinySegment))
}

// tinyClient sends random bytes and reads what comes back.
func tinyClient(addr string, bytes int, seed uint64) (sent, got string, err error) {
	dialer := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = tinyOptions(int(fd)) }), err)
	}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return "", "", err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	written := make(chan error, 1)
	sum := sha256.New()
	go func() {
		rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
		chunk := make([]byte, tinyReceive)
		for left := bytes; left > 0; {
			p := chunk[:min(left, len(chunk))]
			_, _ = rnd.Read(p) // never fails
			_, _ = sum.Write(p)
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				written <- err
				return
			}
			if _, err := conn.Write(p); err != nil {
				written <- err
				return
			}
			left -= len(p)
		}
		written <- conn.(*net.TCPConn).CloseWrite()
	}()
	back := sha256.New()
	buf := make([]byte, tinyReceive)
	n, err := io.CopyBuffer(back, struct{ io.Reader }{conn}, buf)
	err = errors.Join(err, <-written)
	if err == nil && int(n) != bytes {
		err = fmt.Errorf("%d of %d bytes came back", n, bytes)
	}
	return hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(back.Sum(nil)), err
}

// tinyEcho sends back what it reads in small pieces, and closes after the end of
// input. It stands for
//
//	char buf[512]; while ((n = co_await read(buf))) co_await write_all(buf, n);
type tinyEcho struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	edge  bool
	begun bool
	err   error
}

// Step implements sm.Frame.
func (e *tinyEcho) Step(t *sm.Task) sm.Await {
	if e.edge && !e.begun {
		e.begun = true
		return e.conn.ReadableET() // the mode is the descriptor's from now on
	}
	for {
		if a := e.out.Step(t); a.Pending() {
			return a
		}
		if e.err = e.out.Err(); e.err != nil {
			return sm.Done
		}
		read, wait := e.conn.Read, e.conn.Readable
		if e.edge {
			read, wait = e.conn.ReadET, e.conn.ReadableET
		}
		buf := t.Scratch()[:1+int(t.Now().UnixNano()%tinyRead)]
		n, err := read(buf)
		if err == stepio.ErrWouldBlock {
			return wait()
		}
		if err != nil {
			if err != io.EOF {
				e.err = err
			}
			return sm.Done
		}
		e.out.Start(e.conn, buf[:n])
	}
}

// Err is what the echo has failed with, which is reported.
func (e *tinyEcho) Err() error { return e.err }

// Close implements sm.Frame's end.
func (e *tinyEcho) Close() error { return errors.Join(e.out.Close(), e.conn.Close()) }

// relay joins two connections by a Copy each way. It stands for
//
//	server = co_await connect(to); co_await all(way(server, client), way(client, server));
type relay struct {
	rig    *rig
	client *stepio.TCPConn
	dial   stepio.Dial
	server *stepio.TCPConn
	ways   [2]oneWay
	both   sm.All
	err    error
}

func newRelay(r *rig, c *stepio.TCPConn, to *stepio.TCPListener) *relay {
	return &relay{rig: r, client: c, dial: stepio.DialTCP(r.loop, to.Addr(), stepio.DialOptions{})}
}

// Step implements sm.Frame.
func (f *relay) Step(t *sm.Task) sm.Await {
	if f.server == nil {
		if a := f.dial.Step(t); a.Pending() {
			return a
		}
		if f.server, f.err = f.dial.Result(); f.err != nil {
			return sm.Done
		}
		f.err = f.server.SetWriteBuffer(tinySend) // its window is granted already
		f.ways[0].start(f.server, f.client)
		f.ways[1].start(f.client, f.server)
		f.both.Start(&f.ways[0], &f.ways[1])
	}
	if a := f.both.Step(t); a.Pending() {
		return a
	}
	f.err = errors.Join(f.err, f.both.Err())
	return sm.Done
}

// Err is what the relay has failed with, which is reported.
func (f *relay) Err() error { return f.err }

// Close implements sm.Frame's end.
func (f *relay) Close() error {
	return errors.Join(f.both.Close(), f.dial.Close(), f.client.Close(), f.server.Close())
}

// oneWay copies until the end of input, and passes that on.
type oneWay struct {
	copy stepio.Copy
	dst  *stepio.TCPConn
	err  error
}

func (w *oneWay) start(dst, src *stepio.TCPConn) {
	w.dst = dst
	w.copy.Start(dst, src)
}

// Step implements sm.Frame.
func (w *oneWay) Step(t *sm.Task) sm.Await {
	if a := w.copy.Step(t); a.Pending() {
		return a
	}
	if w.err = w.copy.Err(); w.err == nil {
		w.err = w.dst.CloseWrite()
	}
	return sm.Done
}

// Err is what this direction has failed with.
func (w *oneWay) Err() error { return w.err }

// Close implements sm.Frame's end.
func (w *oneWay) Close() error { return w.copy.Close() }

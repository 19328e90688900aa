//go:build linux || darwin

package stepio

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// netPair is two ends of a connection of package net: dialed and accepted.
func netPair(t testing.TB) (dialed, accepted *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	d, err := net.DialTimeout("tcp", ln.Addr().String(), patience)
	require.NoError(t, err)
	a, err := ln.Accept()
	require.NoError(t, err)
	for _, c := range []net.Conn{d, a} {
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
		t.Cleanup(func() { _ = c.Close() }) // a test may have done so
	}
	return d.(*net.TCPConn), a.(*net.TCPConn)
}

// adopted is Adopt, of a connection that is closed when the test has ended.
func adopted(w *world, conn net.Conn) *TCPConn {
	c, err := Adopt(w.Loop, conn)
	require.NoError(w.t, err)
	w.conns = append(w.conns, c)
	return c
}

// echoer sends back what comes, until the end of input.
func echoer(c *TCPConn, in *Input) *fake {
	var out WriteAll
	f := &fake{step: func(t *sm.Task) sm.Await {
		for {
			if a := out.Step(t); a.Pending() {
				return a
			}
			if held := in.Bytes(); len(held) > 0 {
				out.Start(c, held)
				in.Discard(len(held))
				continue
			}
			switch err := in.More(t, c); err {
			case nil:
			case ErrWouldBlock:
				return c.Readable()
			default:
				return sm.Done
			}
		}
	}}
	f.close = func() error { _ = in.Close(); _ = out.Close(); return c.Close() }
	return f
}

func TestAdoptTakesOverAConnection(t *testing.T) {
	for name, pick := range map[string]func(dialed, accepted *net.TCPConn) (mine, peer *net.TCPConn){
		"that was dialed":   func(d, a *net.TCPConn) (mine, peer *net.TCPConn) { return d, a },
		"that was accepted": func(d, a *net.TCPConn) (mine, peer *net.TCPConn) { return a, d },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			mine, peer := pick(netPair(t))
			near, far := mine.LocalAddr().String(), mine.RemoteAddr().String()
			_, err := peer.Write([]byte("sent before"))
			require.NoError(t, err)
			c := adopted(w, mine)
			assert.Equal(t, near, c.LocalAddr().String())
			assert.Equal(t, far, c.RemoteAddr().String())
			_, err = mine.Write([]byte("x"))
			assert.ErrorIs(t, err, net.ErrClosed, "the old connection is closed")
			task := w.Spawn(echoer(c, new(Input)))
			w.alongside(func() {
				buf := make([]byte, 11)
				_, err := io.ReadFull(peer, buf)
				assert.NoError(t, err)
				assert.Equal(t, "sent before", string(buf))
				assert.NoError(t, peer.CloseWrite())
				rest, err := io.ReadAll(peer)
				assert.NoError(t, err)
				assert.Empty(t, rest)
			})
			w.ended(task)
		})
	}
}

// A connection hijacked from net/http comes with bytes that its reader has
// taken already.
func TestAdoptHijackedFromHTTP(t *testing.T) {
	w := newTestLoop(t)
	w.run()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := rw.(http.Hijacker).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		taken, err := buffered.Reader.Peek(buffered.Reader.Buffered())
		assert.NoError(t, err)
		assert.NotEmpty(t, taken, "the test is about these")
		assert.NoError(t, w.Post(func() {
			c, err := Adopt(w.Loop, conn)
			if !assert.NoError(t, err) {
				return
			}
			in := new(Input)
			in.Put(c, taken)
			w.Spawn(echoer(c, in))
		}))
	}))
	defer server.Close()
	client, err := net.DialTimeout("tcp", server.Listener.Addr().String(), patience)
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, client.SetDeadline(time.Now().Add(patience)))
	_, err = client.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\npipelined "))
	require.NoError(t, err)
	buf := make([]byte, 10)
	_, err = io.ReadFull(client, buf)
	require.NoError(t, err)
	assert.Equal(t, "pipelined ", string(buf))
	_, err = client.Write([]byte("and more"))
	require.NoError(t, err)
	require.NoError(t, client.(*net.TCPConn).CloseWrite())
	rest, err := io.ReadAll(client)
	require.NoError(t, err)
	assert.Equal(t, "and more", string(rest))
}

func TestAdoptRefusesWhatIsNoTCPSocket(t *testing.T) {
	t.Run("a pipe of package net", func(t *testing.T) {
		w := newTestLoop(t)
		near, far := net.Pipe()
		refused(t, w, near, far)
	})
	t.Run("a TLS connection", func(t *testing.T) {
		w := newTestLoop(t)
		cert := httptest.NewUnstartedServer(nil)
		cert.StartTLS() // for its certificate
		defer cert.Close()
		d, a := netPair(t)
		near := tls.Client(d, &tls.Config{InsecureSkipVerify: true})
		far := tls.Server(a, cert.TLS)
		refused(t, w, near, far)
	})
	t.Run("a Unix connection", func(t *testing.T) {
		w := newTestLoop(t)
		ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		require.NoError(t, err)
		defer ln.Close()
		near, err := net.Dial("unix", ln.Addr().String())
		require.NoError(t, err)
		far, err := ln.Accept()
		require.NoError(t, err)
		refused(t, w, near, far)
	})
	t.Run("a UDP socket", func(t *testing.T) {
		w := newTestLoop(t)
		far, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		near, err := net.DialUDP("udp", nil, far.LocalAddr().(*net.UDPAddr))
		require.NoError(t, err)
		refused(t, w, near, far)
	})
	t.Run("one that is closed", func(t *testing.T) {
		w := newTestLoop(t)
		near, _ := netPair(t)
		require.NoError(t, near.Close())
		c, err := Adopt(w.Loop, near)
		assert.Nil(t, c)
		assert.ErrorIs(t, err, net.ErrClosed)
	})
	t.Run("none at all", func(t *testing.T) {
		w := newTestLoop(t)
		c, err := Adopt(w.Loop, nil)
		assert.Nil(t, c)
		assert.Error(t, err)
	})
}

// refused checks that Adopt leaves near as it was: it talks to far.
func refused(t *testing.T, w *world, near, far net.Conn) {
	defer near.Close()
	defer far.Close()
	for _, c := range []net.Conn{near, far} {
		require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	}
	fds := len(openFDs())
	c, err := Adopt(w.Loop, near)
	assert.Nil(t, c)
	assert.ErrorContains(t, err, "stepio: Adopt: ")
	assert.Equal(t, fds, len(openFDs()))
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write([]byte("unharmed"))
		sent <- err
	}()
	buf := make([]byte, 8)
	_, err = io.ReadFull(far, buf)
	assert.NoError(t, err)
	assert.Equal(t, "unharmed", string(buf))
	assert.NoError(t, receives(t, "the write", sent))
}

func TestAdoptedConnectionDoesNotBlock(t *testing.T) {
	w := newTestLoop(t)
	mine, _ := netPair(t)
	file, err := mine.File()
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, unix.SetNonblock(int(file.Fd()), false)) // the socket's mode, whoever changes it
	c := adopted(w, mine)
	flags, err := unix.FcntlInt(uintptr(c.FD()), unix.F_GETFL, 0)
	require.NoError(t, err)
	require.NotZero(t, flags&unix.O_NONBLOCK)
	_, err = c.Read(make([]byte, 1))
	assert.Equal(t, ErrWouldBlock, err)
	flags, err = unix.FcntlInt(uintptr(c.FD()), unix.F_GETFD, 0)
	require.NoError(t, err)
	assert.NotZero(t, flags&unix.FD_CLOEXEC)
}

func TestAdoptDoesNotTakeOverDeadlines(t *testing.T) {
	w := newTestLoop(t)
	mine, peer := netPair(t)
	require.NoError(t, mine.SetDeadline(time.Now().Add(-time.Second)))
	c := adopted(w, mine)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	arrived(c)
	n, err := c.Read(make([]byte, 1))
	assert.Equal(t, 1, n)
	assert.NoError(t, err)

	require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
	var readErr error
	f := w.spawn(func(*sm.Task) sm.Await {
		if _, readErr = c.Read(make([]byte, 1)); readErr == ErrWouldBlock {
			return c.Readable()
		}
		return sm.Done
	})
	w.ended(f.task)
	assert.ErrorIs(t, readErr, os.ErrDeadlineExceeded, "its own ones work")
}

// A goroutine that still reads from the old connection is told.
func TestAdoptWhileAnotherGoroutineReads(t *testing.T) {
	w := newTestLoop(t)
	mine, peer := netPair(t)
	result := make(chan error, 1)
	reading := make(chan struct{})
	go func() {
		close(reading)
		_, err := mine.Read(make([]byte, 1))
		result <- err
	}()
	<-reading
	c := adopted(w, mine)
	assert.ErrorIs(t, receives(t, "the reader", result), net.ErrClosed)
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	arrived(c)
	_, err = c.Read(make([]byte, 1))
	assert.NoError(t, err)
}

// Somebody holds another descriptor of the adopted socket: it stays open when
// the connection is closed, and must not send events to a loop that has
// forgotten it.
func TestAdoptedConnectionIsDeregisteredBeforeItIsClosed(t *testing.T) {
	w := newFaultyLoop(t)
	mine, peer := netPair(t)
	file, err := mine.File()
	require.NoError(t, err)
	defer file.Close()
	c := adopted(w, mine)
	waiter := &once{await: c.Readable()}
	task := w.Spawn(waiter)
	w.turns(1)
	require.NoError(t, c.Close())
	assert.Equal(t, 1, w.faults.count(callPollRemove))
	w.ended(task)
	assert.Equal(t, net.ErrClosed, waiter.waitErr)

	_, err = peer.Write([]byte("for nobody"))
	require.NoError(t, err)
	require.NoError(t, peer.Close())
	require.True(t, pollFD(int(file.Fd()), unix.POLLIN, patience), "the socket lives on")
	var events int
	w.faults.onWait = func(evs []event) []event { events += len(evs); return evs }
	w.turns(10)
	assert.Zero(t, events)
}

func TestAdoptIsForTheLoopsGoroutine(t *testing.T) {
	w := newTestLoop(t)
	mine, _ := netPair(t)
	panicked := make(chan any, 1)
	go func() {
		defer func() { panicked <- recover() }()
		_, _ = Adopt(w.Loop, mine)
	}()
	assert.Contains(t, receives(t, "Adopt", panicked), "stepio: Adopt: called on goroutine")
	assert.NoError(t, mine.SetDeadline(time.Time{}), "the connection is unharmed")
}

// interruptedConn is a connection whose close is interrupted by a signal.
type interruptedConn struct{ *net.TCPConn }

func (c interruptedConn) Close() error {
	return errors.Join(c.TCPConn.Close(), os.NewSyscallError("close", syscall.EINTR))
}

func TestAdoptWhoseCloseIsInterrupted(t *testing.T) {
	w := newTestLoop(t)
	near, far := netPair(t)
	c, err := Adopt(w.Loop, interruptedConn{near})
	require.NoError(t, err, "the connection is the loop's now")
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	data, err := io.ReadAll(far)
	require.NoError(t, err)
	assert.Equal(t, "x", string(data))
}

//go:build linux || darwin

package stepio_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The rows of docs/porting.md on sockets and addresses.

func TestPortingListen(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	listen := func() error {
		// region: listen
		ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("[::]:0"), stepio.ListenOptions{
			Backlog:   128, // 0: as many as the kernel allows
			ReusePort: true,
		})
		if err != nil {
			return err // errors.Is finds syscall.EADDRINUSE and so on
		}
		// endregion
		return ln.Close()
	}
	require.NoError(t, listen())
}

// region: accept
type acceptAll struct {
	ln     *stepio.TCPListener
	handle func(*stepio.TCPConn) sm.Frame
	err    error
}

func (a *acceptAll) Step(t *sm.Task) sm.Await {
	for {
		conn, err := a.ln.Accept() // AcceptFD: the bare descriptor, which is the caller's
		if err == stepio.ErrWouldBlock {
			return a.ln.Readable()
		}
		if err != nil {
			a.err = err
			return sm.Done
		}
		t.Spawn(a.handle(conn))
	}
}

func (a *acceptAll) Err() error   { return a.err }
func (a *acceptAll) Close() error { return a.ln.Close() }

// endregion

// region: accept, edge-triggered
type acceptBatches struct {
	ln     *stepio.TCPListener
	handle func(*stepio.TCPConn) sm.Frame
	conns  []*stepio.TCPConn
	err    error
}

func (a *acceptBatches) Step(t *sm.Task) sm.Await {
	for {
		conns, err := a.ln.AcceptET(a.conns[:0]) // appends: the slice is used again
		if err == stepio.ErrWouldBlock {
			return a.ln.ReadableET() // only now: the queue is empty
		}
		if err != nil {
			a.err = err
			return sm.Done
		}
		for _, conn := range conns {
			t.Spawn(a.handle(conn))
		}
		clear(conns) // the frames have them
		a.conns = conns
	}
}

func (a *acceptBatches) Err() error   { return a.err }
func (a *acceptBatches) Close() error { return a.ln.Close() }

// endregion

func TestPortingAccept(t *testing.T) {
	handle := func(c *stepio.TCPConn) sm.Frame { return &greet{conn: c, limit: longest} }
	for name, acceptor := range map[string]func(*stepio.TCPListener) sm.Frame{
		"level": func(ln *stepio.TCPListener) sm.Frame { return &acceptAll{ln: ln, handle: handle} },
		"edge":  func(ln *stepio.TCPListener) sm.Frame { return &acceptBatches{ln: ln, handle: handle} },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuide(t)
			ln, err := stepio.ListenTCP(g.Loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
			require.NoError(t, err)
			g.Spawn(acceptor(ln))
			g.start()
			for range 3 {
				greetOnce(t, ln.Addr().String())
			}
		})
	}
}

type consume struct {
	sock *stepio.TCPConn
	edge bool
	got  []byte
	err  error
}

func (c *consume) Err() error { return c.err }

func (c *consume) handle(p []byte) { c.got = append(c.got, p...) }

func (c *consume) Step(t *sm.Task) sm.Await {
	if c.edge {
		return c.stepEdge(t)
	}
	return c.stepLevel(t)
}

func (c *consume) stepLevel(t *sm.Task) sm.Await {
	for {
		// region: read
		n, err := c.sock.Read(t.Scratch())
		if err == stepio.ErrWouldBlock {
			return c.sock.Readable()
		}
		if err == io.EOF { // the original's 0
			return sm.Done
		}
		if err != nil {
			c.err = err
			return sm.Done
		}
		c.handle(t.Scratch()[:n])
		// endregion
	}
}

// region: read, edge-triggered
func (c *consume) stepEdge(t *sm.Task) sm.Await {
	for {
		n, err := c.sock.ReadET(t.Scratch())
		switch {
		case err == stepio.ErrWouldBlock:
			return c.sock.ReadableET() // only now
		case err == io.EOF:
			return sm.Done
		case err != nil:
			c.err = err
			return sm.Done
		}
		c.handle(t.Scratch()[:n]) // what came before an end or an error is here first
	}
}

// endregion

func TestPortingRead(t *testing.T) {
	for _, edge := range []bool{false, true} {
		g := newGuide(t)
		conn, peer := g.pair()
		f := &consume{sock: conn, edge: edge}
		ended := joined(g, g.Spawn(f))
		g.start()
		want := make([]byte, 300_000)
		_, err := peer.Write(want)
		require.NoError(t, err)
		require.NoError(t, peer.CloseWrite())
		require.NoError(t, <-ended)
		assert.Equal(t, want, f.got)
	}
}

// region: write
type send struct {
	sock  *stepio.TCPConn
	reply []byte
	out   stepio.WriteAll
	state sendState
}

func (s *send) Step(t *sm.Task) sm.Await {
	for {
		switch s.state {
		case sendStarting:
			s.out.Start(s.sock, s.reply) // sends what fits; keeps a copy of the rest only
			s.state = sendWriting
		case sendWriting:
			return s.out.Step(t)
		default:
			panic(fmt.Sprintf("send.Step: state %d", s.state))
		}
	}
}

func (s *send) Err() error   { return s.out.Err() }
func (s *send) Close() error { return s.out.Close() }

// endregion

type sendState uint8

const (
	sendStarting sendState = iota // nothing is sent
	sendWriting                   // co_await sock.async_write(reply)
)

type sendByHand struct {
	sock *stepio.TCPConn
	left []byte
	err  error
}

// region: write, by hand
func (s *sendByHand) Step(*sm.Task) sm.Await {
	n, err := s.sock.Write(s.left)
	s.left = s.left[n:] // a short write is n and ErrWouldBlock
	if err == stepio.ErrWouldBlock {
		return s.sock.Writable()
	}
	s.err = err
	return sm.Done
}

// endregion

func (s *sendByHand) Err() error { return s.err }

func TestPortingWrite(t *testing.T) {
	message := make([]byte, 8<<20) // more than the kernel takes at once
	for _, sender := range []func(*stepio.TCPConn) sm.Frame{
		func(c *stepio.TCPConn) sm.Frame { return &send{sock: c, reply: message} },
		func(c *stepio.TCPConn) sm.Frame { return &sendByHand{sock: c, left: message} },
	} {
		g := newGuide(t)
		conn, peer := g.pair()
		ended := joined(g, g.Spawn(sender(conn)))
		g.start()
		_, err := io.ReadFull(peer, make([]byte, len(message)))
		require.NoError(t, err)
		require.NoError(t, <-ended)
	}
}

func TestPortingClose(t *testing.T) {
	g := newGuide(t)
	conn, peer := g.pair()
	f := &consume{sock: conn}
	ended := joined(g, g.Spawn(f))
	g.start()
	_, err := peer.Write([]byte("x"))
	require.NoError(t, err)
	for read := false; !read; g.on(func() { read = len(f.got) > 0 }) {
	}
	g.on(func() {
		closing := func() error {
			// region: close
			err := conn.Close() // deregisters, closes, and resumes whoever waits
			// endregion
			return err
		}
		require.NoError(t, closing())
		require.NoError(t, closing(), "closing twice does nothing")
	})
	assert.ErrorIs(t, <-ended, net.ErrClosed)
}

// region: linger
type sayGoodbye struct {
	sock   *stepio.TCPConn
	out    stepio.WriteAll
	linger stepio.Linger
	state  goodbyeState
}

func (s *sayGoodbye) Step(t *sm.Task) sm.Await {
	for {
		switch s.state {
		case goodbyeStarting:
			s.out.Start(s.sock, []byte("400 bad request\n"))
			s.state = goodbyeWriting
		case goodbyeWriting:
			if a := s.out.Step(t); a.Pending() {
				return a
			}
			if s.out.Err() != nil {
				return sm.Done
			}
			s.linger.Start(s.sock, t.Now().Add(5*time.Second))
			s.state = goodbyeLingering
		case goodbyeLingering:
			return s.linger.Step(t) // shutdown(SHUT_WR), drain, close
		default:
			panic(fmt.Sprintf("sayGoodbye.Step: state %d", s.state))
		}
	}
}

func (s *sayGoodbye) Close() error { return errors.Join(s.out.Close(), s.sock.Close()) }

// endregion

type goodbyeState uint8

const (
	goodbyeStarting  goodbyeState = iota // nothing is sent
	goodbyeWriting                       // the last words are on their way
	goodbyeLingering                     // waits until the peer has finished
)

func TestPortingLinger(t *testing.T) {
	g := newGuide(t)
	conn, peer := g.pair()
	_, err := peer.Write([]byte("unread input, for which a plain close would reset the connection"))
	require.NoError(t, err)
	ended := joined(g, g.Spawn(&sayGoodbye{sock: conn}))
	g.start()
	last, err := io.ReadAll(peer)
	require.NoError(t, err)
	assert.Equal(t, "400 bad request\n", string(last))
	require.NoError(t, peer.Close())
	assert.NoError(t, <-ended)
}

func TestPortingEndpoint(t *testing.T) {
	convert := func() (netip.AddrPort, uint32, error) {
		// region: endpoint
		to, err := netip.ParseAddrPort("127.0.0.1:8080")
		if err != nil {
			return to, 0, err
		}
		var raw unix.RawSockaddrAny
		size, err := stepio.AddrPortToSockaddr(&raw, to) // for a syscall of one's own
		if err != nil {
			return to, 0, err
		}
		from, err := stepio.AddrPortFromSockaddr(&raw) // and what a syscall has filled
		// endregion
		return from, size, err
	}
	from, size, err := convert()
	require.NoError(t, err)
	assert.Equal(t, netip.MustParseAddrPort("127.0.0.1:8080"), from)
	assert.EqualValues(t, unix.SizeofSockaddrInet4, size)
}

// region: main
func mirrorServer(loop *stepio.Loop, addr netip.AddrPort) (*stepio.TCPListener, error) {
	ln, err := stepio.ListenTCP(loop, addr, stepio.ListenOptions{})
	if err != nil {
		return nil, err
	}
	loop.Spawn(stepio.NewServe(ln, func(conn *stepio.TCPConn) sm.Frame {
		return &mirror{conn: conn}
	}))
	return ln, nil
}

type mirror struct {
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	state mirrorState
}

type mirrorState uint8

const (
	mirrorReading mirrorState = iota // waits for a message
	mirrorWriting                    // sends it back
)

func (m *mirror) Step(t *sm.Task) sm.Await {
	for {
		switch m.state {
		case mirrorReading:
			n, err := m.conn.Read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return m.conn.Readable()
			}
			if err != nil {
				return sm.Done
			}
			m.out.Start(m.conn, t.Scratch()[:n])
			m.state = mirrorWriting
		case mirrorWriting:
			if a := m.out.Step(t); a.Pending() {
				return a
			}
			if m.out.Err() != nil {
				return sm.Done
			}
			m.state = mirrorReading
		default:
			panic(fmt.Sprintf("mirror.Step: state %d", m.state))
		}
	}
}

func (m *mirror) Close() error { return errors.Join(m.out.Close(), m.conn.Close()) }

// endregion

func TestPortingServer(t *testing.T) {
	g := newGuide(t)
	ln, err := mirrorServer(g.Loop, netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	g.start()
	peer := dial(t, ln.Addr().String())
	_, err = peer.Write([]byte("ping"))
	require.NoError(t, err)
	require.NoError(t, peer.CloseWrite())
	pong, err := io.ReadAll(peer)
	require.NoError(t, err)
	assert.Equal(t, "ping", string(pong))
}

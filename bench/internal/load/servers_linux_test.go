package load

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stretchr/testify/require"
)

// errDone ends a test server's connection, which is then closed.
var errDone = errors.New("done")

// A script is what a test server does with message n of connection conn, both
// counted from 0: it returns what to write, or an error to close the connection.
type script func(conn, n int, msg []byte) ([]byte, error)

// honest sends a message back.
func honest(_, _ int, msg []byte) ([]byte, error) { return msg, nil }

// serveTCP runs handle for each connection, on goroutines that the test's end
// waits for, and returns the address.
func serveTCP(t testing.TB, handle func(conn int, c net.Conn)) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var wg sync.WaitGroup
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(i, c)
				mu.Lock()
				delete(open, c)
				mu.Unlock()
				if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
					t.Errorf("close: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		mu.Lock()
		for c := range open {
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// serveEcho cuts what comes in messages of size bytes and answers each as s
// says.
func serveEcho(t testing.TB, size int, s script) string {
	return serveTCP(t, func(conn int, c net.Conn) {
		msg := make([]byte, size)
		for n := 0; ; n++ {
			if _, err := io.ReadFull(c, msg); err != nil {
				return
			}
			out, err := s(conn, n, msg)
			if err != nil {
				return
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

// serveUDP answers each datagram, counted over all peers, as s says; an answer
// of length 0 is none.
func serveUDP(t testing.TB, s func(n int, msg []byte) []byte) string {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for n := 0; ; n++ {
			k, peer, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			out := s(n, buf[:k])
			for len(out) > 0 { // a repeated datagram is two
				if _, err := c.WriteToUDPAddrPort(out[:min(k, len(out))], peer); err != nil {
					return
				}
				out = out[min(k, len(out)):]
			}
		}
	})
	t.Cleanup(func() {
		require.NoError(t, c.Close())
		wg.Wait()
	})
	return c.LocalAddr().String()
}

// serveHTTP answers each request, which must be the client's own, as s says.
func serveHTTP(t testing.TB, s func(conn, n int) []byte) string {
	var one []byte
	ready := make(chan struct{})
	addr := serveTCP(t, func(conn int, c net.Conn) {
		<-ready
		got := make([]byte, len(one))
		for n := 0; ; n++ {
			if _, err := io.ReadFull(c, got); err != nil {
				return
			}
			if string(got) != string(one) {
				t.Errorf("request %q", got)
				return
			}
			if _, err := c.Write(s(conn, n)); err != nil {
				return
			}
		}
	})
	one = []byte("GET /hello HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
	close(ready)
	return addr
}

// serveFanout sends each message of a publisher to all subscribers; s says what
// subscriber conn gets for message n.
func serveFanout(t testing.TB, s script) string {
	var mu sync.Mutex
	subscribers := map[int]net.Conn{}
	return serveTCP(t, func(conn int, c net.Conn) {
		role := make([]byte, 1)
		if _, err := io.ReadFull(c, role); err != nil {
			return
		}
		if role[0] == 'S' {
			mu.Lock()
			subscribers[conn] = c
			mu.Unlock()
		}
		if _, err := c.Write(role); err != nil {
			return
		}
		msg := make([]byte, contend.FanoutSize)
		for n := 0; ; n++ {
			if _, err := io.ReadFull(c, msg); err != nil {
				return
			}
			mu.Lock()
			for i, sub := range subscribers {
				out, err := s(i, n, append([]byte(nil), msg...))
				if err == nil {
					_, err = sub.Write(out)
				}
				if err != nil {
					mu.Unlock()
					return
				}
			}
			mu.Unlock()
		}
	})
}

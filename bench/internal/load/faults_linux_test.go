package load

import (
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

// Servers that do wrong, each of which must be found and named.

// faulty opens a load and runs windows until one fails, and returns the
// error.
func faulty(t *testing.T, spec Spec) string {
	t.Helper()
	c := testClient(t)
	c.stall = 500 * time.Millisecond
	if r := c.do(Command{Op: "open", Spec: spec}); r.Error != "" {
		return r.Error
	}
	for range 20 {
		if r := c.do(Command{Op: "run", Window: 20 * time.Millisecond}); r.Error != "" {
			return r.Error
		}
	}
	t.Fatal("the fault was not found")
	return ""
}

// at does something else with message n of connection conn.
func at(conn, n int, other func(msg []byte) ([]byte, error)) script {
	return func(c, k int, msg []byte) ([]byte, error) {
		if c == conn && k == n {
			return other(msg)
		}
		return msg, nil
	}
}

func flip(i int) func([]byte) ([]byte, error) {
	return func(msg []byte) ([]byte, error) {
		msg = slices.Clone(msg)
		msg[i] ^= 1
		return msg, nil
	}
}

func TestEchoFaultsAreFound(t *testing.T) {
	nothing := func([]byte) ([]byte, error) { return nil, nil }
	twice := func(msg []byte) ([]byte, error) { return append(slices.Clone(msg), msg...), nil }
	closes := func([]byte) ([]byte, error) { return nil, errDone }
	crossed := make(chan byte)
	cross := func(first bool) func(msg []byte) ([]byte, error) {
		return func(msg []byte) ([]byte, error) {
			msg = slices.Clone(msg)
			if first {
				crossed <- msg[40]
				msg[40] = <-crossed
			} else {
				b := <-crossed
				crossed <- msg[40]
				msg[40] = b
			}
			return msg, nil
		}
	}
	cases := []struct {
		name   string
		conns  int
		depth  int
		script script
		want   string
	}{
		{"a changed byte of the body", 3, 1, at(1, 5, flip(17)), "wrong byte at offset 337 (byte 17 of message 5): expected 0x"},
		{"a changed byte of the name", 3, 1, at(1, 5, flip(3)), "(byte 3 of message 5): expected 0x00, got 0x01"},
		{"a changed last byte of a pipeline", 1, 8, at(0, 40, flip(63)), "connection 0: wrong byte at offset 2623 (byte 63 of message 40)"},
		{"bytes of two connections swapped", 2, 1, func(c, n int, msg []byte) ([]byte, error) {
			if n == 5 {
				return cross(c == 0)(msg)
			}
			return msg, nil
		}, "(byte 40 of message 5)"},
		{"a message dropped", 3, 1, at(1, 5, nothing), "no answer for 500ms from 1 of 3 connections"},
		{"a message of a pipeline dropped", 1, 4, at(0, 5, nothing), "connection 0: wrong byte at offset 320 (byte 0 of message 5): expected 0x05, got 0x06"},
		{"the first message repeated", 1, 1, at(0, 0, twice), "64 bytes came that nothing was sent for"},
		{"a connection closed early", 3, 1, at(2, 5, closes), "connection 2: closed by the server, with 5 of 6 answers sent"},
		{"a connection closed at once", 3, 1, at(0, 0, closes), "closed by the server, with 0 of 1 answers sent"},
		{"never an answer", 3, 1, func(int, int, []byte) ([]byte, error) { return nil, nil }, "no answer for 500ms from 3 of 3 connections"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			addr := serveEcho(t, 64, tc.script)
			require.Contains(t, faulty(t, Spec{Kind: Echo, Addr: addr, Conns: tc.conns, Size: 64, Depth: tc.depth}), tc.want)
		})
	}
	for _, depth := range []int{1, 4} {
		t.Run("a message repeated, depth "+strconv.Itoa(depth), func(t *testing.T) {
			addr := serveEcho(t, 64, at(0, 5, twice))
			// Which it is depends on whether the next message was under way already.
			require.Regexp(t, `^connection 0: (64 bytes came that nothing was sent for|wrong byte at offset 384)`,
				faulty(t, Spec{Kind: Echo, Addr: addr, Conns: 1, Size: 64, Depth: depth}))
		})
	}
	t.Run("a long message with a changed byte", func(t *testing.T) {
		addr := serveEcho(t, 64<<10, at(0, 2, flip(65535)))
		require.Contains(t, faulty(t, Spec{Kind: Echo, Addr: addr, Conns: 1, Size: 64 << 10, Depth: 1}), "offset 196607 (byte 65535 of message 2)")
	})
}

func TestIdleFaultsAreFound(t *testing.T) {
	for _, last := range []string{"", "more"} {
		t.Run("says "+strconv.Quote(last)+" and closes", func(t *testing.T) {
			hangUp, closed := make(chan struct{}), make(chan struct{})
			addr := serveTCP(t, func(conn int, c net.Conn) {
				msg := make([]byte, 64)
				for {
					if _, err := io.ReadFull(c, msg); err != nil {
						return
					}
					if _, err := c.Write(msg); err != nil {
						return
					}
					if conn == 2 { // the second idle one
						<-hangUp
						if _, err := io.WriteString(c, last); err != nil {
							t.Errorf("last words: %v", err)
						}
						if err := c.(*net.TCPConn).CloseWrite(); err != nil {
							t.Errorf("close: %v", err)
						}
						close(closed)
						return
					}
				}
			})
			c := testClient(t)
			must(t, c, Command{Op: "open", Spec: Spec{Kind: Echo, Addr: addr, Conns: 1, Size: 64, Depth: 1}})
			must(t, c, Command{Op: "idle", Idle: 3})
			must(t, c, Command{Op: "run", Window: 5 * time.Millisecond})
			close(hangUp)
			<-closed
			want := "idle connection 1: closed by the server, with 1 of 1 answers sent"
			if last != "" {
				want = `idle connection 1: 4 bytes came that nothing was sent for: "more"`
			}
			require.Contains(t, c.do(Command{Op: "run", Window: 5 * time.Millisecond}).Error, want)
		})
	}
}

// The answer and the end come in one segment, and so in one event.
func TestAnEndThatComesWithAnAnswerIsFound(t *testing.T) {
	addr := serveTCP(t, func(conn int, c net.Conn) {
		msg := make([]byte, 64)
		for {
			if _, err := io.ReadFull(c, msg); err != nil {
				return
			}
			last := conn == 2
			if last {
				assert.NoError(t, cork(c.(*net.TCPConn)))
			}
			if _, err := c.Write(msg); err != nil || last {
				return
			}
		}
	})
	c := testClient(t)
	must(t, c, Command{Op: "open", Spec: Spec{Kind: Echo, Addr: addr, Conns: 1, Size: 64, Depth: 1}})
	require.Contains(t, c.do(Command{Op: "idle", Idle: 3}).Error, "idle connection 1: closed by the server, with 1 of 1 answers sent")
}

// cork holds back what is written until more comes, or the end.
func cork(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
	return errors.Join(err, set)
}

func TestRefusedConnectionsAreFound(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	for _, kind := range []Kind{Echo, Churn, UDP, HTTP} {
		t.Run(string(kind), func(t *testing.T) {
			require.Contains(t, faulty(t, Spec{Kind: kind, Addr: addr, Conns: 2, Size: 64, Depth: 1}), "connection refused")
		})
	}
}

func TestChurnFaultsAreFound(t *testing.T) {
	t.Run("a changed byte", func(t *testing.T) {
		addr := serveEcho(t, 64, at(50, 0, flip(20)))
		require.Contains(t, faulty(t, Spec{Kind: Churn, Addr: addr, Conns: 2, Size: 64, Depth: 1}), "wrong byte")
	})
	t.Run("a connection closed early", func(t *testing.T) {
		addr := serveEcho(t, 64, at(50, 0, func([]byte) ([]byte, error) { return nil, errDone }))
		require.Contains(t, faulty(t, Spec{Kind: Churn, Addr: addr, Conns: 2, Size: 64, Depth: 1}), "closed by the server")
	})
	t.Run("no answer", func(t *testing.T) {
		addr := serveEcho(t, 64, at(50, 0, func([]byte) ([]byte, error) { return nil, nil }))
		require.Contains(t, faulty(t, Spec{Kind: Churn, Addr: addr, Conns: 2, Size: 64, Depth: 1}), "no answer for 500ms from 1 of 2")
	})
}

func TestUDPLossIsCounted(t *testing.T) {
	for _, depth := range []int{1, 4} {
		t.Run("depth "+strconv.Itoa(depth), func(t *testing.T) {
			var dropped atomic.Int64
			addr := serveUDP(t, func(n int, b []byte) []byte {
				if n%10 == 9 {
					dropped.Add(1)
					return nil
				}
				return b
			})
			c := testClient(t)
			must(t, c, Command{Op: "open", Spec: Spec{Kind: UDP, Addr: addr, Conns: 20, Size: 64, Depth: depth}})
			for range 2 {
				dropped.Store(0)
				w := must(t, c, Command{Op: "run", Window: 500 * time.Millisecond})
				require.Positive(t, w.Lost)
				require.Equal(t, dropped.Load(), w.Lost)
			}
			must(t, c, Command{Op: "close"})
		})
	}
}

func TestUDPLateIsNoError(t *testing.T) {
	var held []byte
	addr := serveUDP(t, func(n int, b []byte) []byte {
		switch n {
		case 10:
			held = slices.Clone(b)
			return nil
		case 20: // by then the client has replaced what was held
			return append(held, b...)
		}
		return b
	})
	c := testClient(t)
	c.loss = 100 * time.Millisecond
	must(t, c, Command{Op: "open", Spec: Spec{Kind: UDP, Addr: addr, Conns: 1, Size: 64, Depth: 1}})
	w := must(t, c, Command{Op: "run", Window: 300 * time.Millisecond})
	require.Positive(t, w.Lost) // the one held, and others where the machine stopped for as long
	must(t, c, Command{Op: "close"})
}

func TestUDPFaultsAreFound(t *testing.T) {
	cases := []struct {
		name string
		do   func(msg []byte) []byte
		want string
	}{
		{"a datagram repeated", func(b []byte) []byte { return append(slices.Clone(b), b...) }, "came twice"},
		{"a changed byte of the body", func(b []byte) []byte { b[30] ^= 1; return b }, "wrong byte"},
		{"a changed connection", func(b []byte) []byte { b[4] ^= 1; return b }, "(byte 4 of message"},
		{"a changed number", func(b []byte) []byte { b[0] ^= 1; return b }, "wrong byte"},
		{"a datagram that is cut", func(b []byte) []byte { return b[:60] }, "expected a datagram of 64 bytes, got 60"},
	}
	for _, tc := range cases {
		for _, depth := range []int{1, 4} {
			t.Run(tc.name+", depth "+strconv.Itoa(depth), func(t *testing.T) {
				addr := serveUDP(t, func(n int, b []byte) []byte {
					if n == 50 {
						return tc.do(b)
					}
					return b
				})
				require.Contains(t, faulty(t, Spec{Kind: UDP, Addr: addr, Conns: 2, Size: 64, Depth: depth}), tc.want)
			})
		}
	}
	t.Run("never an answer", func(t *testing.T) {
		addr := serveUDP(t, func(int, []byte) []byte { return nil })
		require.Contains(t, faulty(t, Spec{Kind: UDP, Addr: addr, Conns: 2, Size: 64, Depth: 1}), "no answer")
	})
}

func TestHTTPFaultsAreFound(t *testing.T) {
	length := "Content-Length: " + strconv.Itoa(len(contend.Hello)) + "\r\n"
	cases := []struct {
		name, answer, want string
	}{
		{"a wrong status", "HTTP/1.1 404 Not Found\r\n" + length + "\r\n" + contend.Hello, `connection 1: response 5: expected the status line HTTP/1.1 200, got "HTTP/1.1 404 Not Found"`},
		{"a wrong body", "HTTP/1.1 200 OK\r\n" + length + "\r\n" + strings.ToUpper(contend.Hello), "expected the body"},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n" + contend.Hello, "a response has no Content-Length"},
		{"a wrong length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nHel", "expected Content-Length"},
		{"two lengths", "HTTP/1.1 200 OK\r\n" + length + length + "\r\n" + contend.Hello, "two Content-Length"},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", `a response has Transfer-Encoding "chunked"`},
		{"a second response", string(httpOK(0, 0)) + string(httpOK(0, 0)), "bytes came that nothing was sent for"},
		{"half a response", string(httpOK(0, 0))[:30], "no answer for 500ms from 1 of 2 connections"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			var used atomic.Bool
			addr := serveHTTP(t, func(conn, n int) []byte {
				if n == 5 && conn == 1 && !used.Swap(true) {
					return []byte(tc.answer)
				}
				return httpOK(conn, n)
			})
			require.Contains(t, faulty(t, Spec{Kind: HTTP, Addr: addr, Conns: 2, Depth: 1}), tc.want)
		})
	}
}

func TestFanoutFaultsAreFound(t *testing.T) {
	spec := func(addr string) Spec {
		return Spec{Kind: Fanout, Addr: addr, Conns: 5, Size: contend.FanoutSize, Depth: 1}
	}
	cases := []struct {
		name string
		do   func([]byte) ([]byte, error)
		want string
	}{
		{"a subscriber skipped", func([]byte) ([]byte, error) { return nil, nil }, "no answer for 500ms from 1 of 6 connections"},
		{"a changed byte", flip(33), "subscriber 2: wrong byte at offset 353 (byte 33 of message 5)"},
		{"a delivery repeated", func(b []byte) ([]byte, error) { return append(b, b...), nil }, "subscriber 2: 64 bytes came that nothing was sent for"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			require.Contains(t, faulty(t, spec(serveFanout(t, at(2, 5, tc.do)))), tc.want)
		})
	}
	t.Run("a wrong greeting", func(t *testing.T) {
		addr := serveEcho(t, 1, func(int, int, []byte) ([]byte, error) { return []byte("X"), nil })
		require.Contains(t, faulty(t, spec(addr)), `expected the answer "S" to the first byte, got "X"`)
	})
	t.Run("a publisher closed", func(t *testing.T) {
		addr := serveFanout(t, at(2, 5, func([]byte) ([]byte, error) { return nil, errDone }))
		require.Contains(t, faulty(t, spec(addr)), "publisher 0: closed by the server")
	})
}

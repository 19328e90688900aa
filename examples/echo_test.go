package examples_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// variants are the arguments with which every echo server is tested.
var variants = [][]string{
	{"-loops", "1"},
	{"-loops", "2"},
	{"-loops", "2", "-workers", "2"},
}

// echoServers runs a test for each echo server of a network, and with each
// variant. A proxy before an echo server is one too.
func echoServers(t *testing.T, network string, test func(t *testing.T, s *process)) {
	var behind program
	for _, p := range programs {
		if p.network != network {
			continue
		}
		if p.workers {
			behind = p
		}
		for _, args := range variants {
			if !p.workers && (p.name != "proxy_server" || len(args) > 2) {
				continue
			}
			t.Run(p.name+" "+strings.Join(args, " "), func(t *testing.T) {
				p := p
				if p.name == "proxy_server" {
					echo := behind.start(t, "-addr", "127.0.0.1:0", "-loops", "1")
					p.needs = []string{"-backend", "localhost:" + fmt.Sprint(echo.addr.Port())}
				}
				test(t, p.start(t, append([]string{"-addr", ":0", "-grace", "500ms"}, args...)...))
			})
		}
	}
}

// message is n bytes that differ from those of other messages.
func message(n int, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

// exchange sends p in pieces of at most that many bytes, while it reads it back.
func exchange(t *testing.T, conn *net.TCPConn, p []byte, piece int) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		for left := p; len(left) > 0; {
			n := min(piece, len(left))
			if _, err := conn.Write(left[:n]); err != nil {
				sent <- err
				return
			}
			left = left[n:]
		}
		sent <- nil
	}()
	got := make([]byte, len(p))
	_, err := io.ReadFull(conn, got)
	assert.NoError(t, errors.Join(err, <-sent))
	assert.True(t, bytes.Equal(p, got), "%d bytes came back changed", len(p))
}

func TestTCPEchoServerSendsBackWhatItGets(t *testing.T) {
	echoServers(t, "tcp", func(t *testing.T, s *process) {
		for _, host := range hosts() {
			conn := dialTCP(t, s.on(host))
			for i, n := range []int{1, 2, 63, 1000, 4095, 4097, 65_535, 65_536, 65_537, 200_001} {
				exchange(t, conn, message(n, byte(i)), n)
			}
			exchange(t, conn, message(300, 20), 1)
			exchange(t, conn, message(1<<20, 21), 1337)
			exchange(t, conn, message(1<<20, 22), 1<<20)

			// What was sent before the end of input comes back before its own.
			last := message(1<<20, 23)
			go func() {
				_, err := conn.Write(last)
				assert.NoError(t, errors.Join(err, conn.CloseWrite()))
			}()
			got, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.True(t, bytes.Equal(last, got))
		}
		s.quiet()
	})
}

// hosts are this machine's, of each family that it has.
func hosts() []string {
	conn, err := net.ListenPacket("udp", "[::1]:0")
	if err != nil {
		return []string{"127.0.0.1"}
	}
	_ = conn.Close() // nothing was sent
	return []string{"127.0.0.1", "::1"}
}

func TestTCPEchoServerServesManyClients(t *testing.T) {
	echoServers(t, "tcp", func(t *testing.T, s *process) {
		var wg sync.WaitGroup
		for i := range 200 {
			conn := s.dial()
			wg.Go(func() {
				for j := range 10 {
					exchange(t, conn, message(1+17*i+j, byte(i)), 1<<16)
				}
				assert.NoError(t, conn.Close())
			})
		}
		wg.Wait()
		s.quiet()
	})
}

// A client that resets, in the middle of whatever, harms no other.
func TestTCPEchoServerSurvivesResets(t *testing.T) {
	echoServers(t, "tcp", func(t *testing.T, s *process) {
		steady := s.dial()
		for i := range 50 {
			conn := s.dial()
			if i%2 == 0 {
				_, err := conn.Write(message(1<<16, byte(i)))
				require.NoError(t, err)
			}
			require.NoError(t, conn.SetLinger(0))
			require.NoError(t, conn.Close())
			exchange(t, steady, message(100, byte(i)), 100)
		}
		s.quiet()
	})
}

func TestTCPEchoServerStopsInTheMiddleOfATransfer(t *testing.T) {
	echoServers(t, "tcp", func(t *testing.T, s *process) {
		for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
			if sig == syscall.SIGTERM { // the same again
				s = restarted(t, s)
			}
			var wg sync.WaitGroup
			for i := range 8 {
				conn := s.dial()
				wg.Go(func() { // until the server has gone
					for p := message(1<<16, byte(i)); ; {
						if _, err := conn.Write(p); err != nil {
							assert.NotErrorIs(t, err, os.ErrDeadlineExceeded)
							return
						}
					}
				})
				if i%2 == 0 { // the others do not read, and the server can't write
					wg.Go(func() { _, _ = io.Copy(io.Discard, conn) })
				} else {
					_, err := io.ReadFull(conn, make([]byte, 1<<16)) // it is in the middle
					require.NoError(t, err)
				}
			}
			s.stop(sig)
			wg.Wait()
			assert.Empty(t, s.stderr.String())
		}
	})
}

// restarted is the program of s, which has been stopped, once more.
func restarted(t *testing.T, s *process) *process {
	t.Helper()
	again := program{}
	for _, p := range programs {
		if strings.HasSuffix(s.cmd.Path, "/"+p.name) {
			again = p
		}
	}
	again.needs = nil
	return again.start(t, s.cmd.Args[1:]...)
}

func TestUDPEchoServerSendsBackWhatItGets(t *testing.T) {
	echoServers(t, "udp", func(t *testing.T, s *process) {
		for _, host := range hosts() {
			conn := dialUDP(t, s.on(host))
			for i, n := range []int{1, 0, 2, 1472, 1473, 9000, 65_507} {
				p := message(n, byte(i))
				_, err := conn.Write(p)
				require.NoError(t, err)
				got := make([]byte, 1<<16)
				m, err := conn.Read(got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(p, got[:m]), "%d bytes came back as %d", n, m)
			}
		}
		s.quiet()
	})
}

func dialUDP(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // most tests have closed it
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// The original's edge-triggered batch shares one buffer: one datagram of five
// survives.
func TestUDPEchoServerKeepsTheDatagramsOfABatchApart(t *testing.T) {
	echoServers(t, "udp", func(t *testing.T, s *process) {
		conn := dialUDP(t, s.on("127.0.0.1"))
		want := make(map[string]bool)
		for i := range 40 {
			p := fmt.Sprintf("%d%s", i, strings.Repeat("x", i))
			want[p] = true
			_, err := io.WriteString(conn, p)
			require.NoError(t, err)
		}
		got := make([]byte, 1<<16)
		for len(want) > 0 { // with workers, in any order
			n, err := conn.Read(got)
			require.NoError(t, err, "missing: %v", want)
			require.Contains(t, want, string(got[:n]))
			delete(want, string(got[:n]))
		}
		s.quiet()
	})
}

func TestUDPEchoServerServesManyClients(t *testing.T) {
	echoServers(t, "udp", func(t *testing.T, s *process) {
		var wg sync.WaitGroup
		for i := range 50 {
			conn := dialUDP(t, s.on("127.0.0.1"))
			wg.Go(func() {
				got := make([]byte, 1<<16)
				for j := range 40 {
					p := message(1+17*i+j, byte(i))
					_, err := conn.Write(p)
					assert.NoError(t, err)
					n, err := conn.Read(got)
					assert.NoError(t, err)
					assert.True(t, bytes.Equal(p, got[:n]))
				}
			})
		}
		wg.Wait()
		s.quiet()
	})
}

// The answer to a datagram from port 0 cannot be sent, and ends the original.
func TestUDPEchoServerSurvivesADatagramFromPort0(t *testing.T) {
	raw, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_UDP)
	if err != nil {
		t.Skipf("SKIPPED: making such a datagram needs the right to open raw sockets (run as root): %v", err)
	}
	defer syscall.Close(raw)
	echoServers(t, "udp", func(t *testing.T, s *process) {
		port := s.addr.Port()
		payload := "from nowhere"
		length := 8 + len(payload)
		datagram := append([]byte{0, 0, byte(port >> 8), byte(port), byte(length >> 8), byte(length), 0, 0}, payload...)
		for range 3 {
			require.NoError(t, syscall.Sendto(raw, datagram, 0, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
			conn := dialUDP(t, s.on("127.0.0.1"))
			_, err := io.WriteString(conn, "still there")
			require.NoError(t, err)
			got := make([]byte, 100)
			n, err := conn.Read(got)
			require.NoError(t, err)
			require.Equal(t, "still there", string(got[:n]))
		}
		s.quiet()
	})
}

func TestUDPEchoServerStopsInTheMiddleOfAFlood(t *testing.T) {
	echoServers(t, "udp", func(t *testing.T, s *process) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 2 {
			conn := dialUDP(t, s.on("127.0.0.1"))
			wg.Go(func() {
				for p := message(1000, byte(i)); ; {
					select {
					case <-stop:
						return
					default:
						_, _ = conn.Write(p) // refused once the server has gone
					}
				}
			})
			_, err := conn.Read(make([]byte, 1000)) // it is in the middle
			require.NoError(t, err)
		}
		s.stop(syscall.SIGTERM)
		close(stop)
		wg.Wait()
		assert.Empty(t, s.stderr.String())
	})
}

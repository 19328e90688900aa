package contend

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// eachPeer runs test against every library that has the service, its server
// in this process.
func eachPeer(t *testing.T, s Service, test func(t *testing.T, addr string)) {
	for _, c := range peerContenders() {
		start, ok := c.Starts[s]
		if !ok {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			addr, err := start()
			require.NoError(t, err)
			test(t, addr)
		})
	}
}

// dial connects with a deadline on all that follows. A narrow connection has
// the smallest receive buffer, so that the server meets a full socket.
func dial(t *testing.T, addr string, narrow bool) *net.TCPConn {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if narrow {
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var err error
			if control := raw.Control(func(fd uintptr) {
				err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
			}); control != nil {
				return control
			}
			return err
		}
	}
	c, err := d.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

// reset connects, says what it has to say, and ends with a reset.
func reset(t *testing.T, addr string, say []byte) {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	require.NoError(t, err)
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Write(say)
	require.NoError(t, err)
	require.NoError(t, c.(*net.TCPConn).SetLinger(0))
	require.NoError(t, c.Close())
}

// noise is n bytes that depend on seed alone.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(r.Uint32())
	}
	return out
}

// inPieces writes data cut in pieces of these sizes, over and over.
func inPieces(w io.Writer, data []byte, sizes ...int) error {
	for i := 0; len(data) > 0; i++ {
		n := min(sizes[i%len(sizes)], len(data))
		if _, err := w.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// expect reads as many bytes as want has and compares them, a few at a time.
func expect(r io.Reader, want []byte) error {
	buf := make([]byte, 1500)
	for at := 0; at < len(want); {
		n, err := r.Read(buf[:min(len(buf), len(want)-at)])
		if !bytes.Equal(buf[:n], want[at:at+n]) {
			return fmt.Errorf("the bytes from %d to %d differ", at, at+n)
		}
		at += n
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at, len(want), err)
		}
	}
	return nil
}

func TestPeerEchoReturnsEveryByte(t *testing.T) {
	eachPeer(t, Echo, func(t *testing.T, addr string) {
		var group sync.WaitGroup
		for i := range 4 {
			c := dial(t, addr, i%2 == 1)
			data := noise(uint64(i), 1<<20)
			group.Go(func() { assert.NoError(t, inPieces(c, data, 1, 63, 64, 65, 4095, 4097, 70001)) })
			group.Go(func() { assert.NoError(t, expect(c, data)) })
		}
		group.Wait()
	})
}

// Options differ in what they cost: four calls a connection for keep-alive, in
// package net, which the others do not turn on.
func TestEchoHasTheSocketOptionsOfTheOthers(t *testing.T) {
	options := []struct {
		name          string
		level, option int
		want          int
	}{
		{"TCP_NODELAY", syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 0},
	}
	for _, contender := range All() {
		start, ok := contender.Starts[Echo]
		if !ok {
			continue
		}
		t.Run(contender.Name, func(t *testing.T) {
			addr, err := start()
			require.NoError(t, err)
			c := dial(t, addr, false)
			require.NoError(t, inPieces(c, []byte("x"), 1))
			require.NoError(t, expect(c, []byte("x"))) // now the server has accepted
			local := c.LocalAddr().(*net.TCPAddr)
			entries, err := os.ReadDir("/dev/fd")
			require.NoError(t, err)
			found := 0
			for _, e := range entries {
				fd, err := strconv.Atoi(e.Name())
				require.NoError(t, err)
				peer, err := syscall.Getpeername(fd)
				if v4, ok := peer.(*syscall.SockaddrInet4); err != nil || !ok || v4.Port != local.Port {
					continue // not the server's end of c
				}
				found++
				for _, o := range options {
					got, err := syscall.GetsockoptInt(fd, o.level, o.option)
					require.NoError(t, err)
					assert.Equal(t, o.want, got, o.name)
				}
			}
			assert.Equal(t, 1, found)
		})
	}
}

func TestPeerEchoSurvivesResets(t *testing.T) {
	eachPeer(t, Echo, func(t *testing.T, addr string) {
		steady := dial(t, addr, false)
		for i := range 50 {
			reset(t, addr, noise(uint64(i), 1+i*997))
			data := noise(uint64(i), 64<<10)
			var group sync.WaitGroup
			group.Go(func() { assert.NoError(t, inPieces(steady, data, len(data))) })
			require.NoError(t, expect(steady, data))
			group.Wait()
		}
		late := dial(t, addr, false)
		require.NoError(t, inPieces(late, []byte("late"), 4))
		require.NoError(t, expect(late, []byte("late")))
	})
}

func TestPeerEchoUDPReturnsEachDatagram(t *testing.T) {
	eachPeer(t, EchoUDP, func(t *testing.T, addr string) {
		for range 2 {
			c, err := net.Dial("udp", addr)
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
			got := make([]byte, maxDatagram)
			for _, size := range []int{1, 16, 64, 1472, 60000} {
				want := noise(7, size)
				_, err := c.Write(want)
				require.NoError(t, err)
				n, err := c.Read(got)
				require.NoError(t, err)
				require.Equal(t, want, got[:n])
			}
		}
	})
}

// A server with a smaller buffer would lose datagrams that the others keep.
func TestEchoUDPHasTheBufferOfTheOthers(t *testing.T) {
	plain, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, syscall.Close(plain)) }()
	require.NoError(t, syscall.SetsockoptInt(plain, syscall.SOL_SOCKET, syscall.SO_RCVBUF, udpRoom))
	want, err := syscall.GetsockoptInt(plain, syscall.SOL_SOCKET, syscall.SO_RCVBUF) // the system has a limit
	require.NoError(t, err)
	for _, c := range All() {
		start, ok := c.Starts[EchoUDP]
		if !ok {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			addr, err := start()
			require.NoError(t, err)
			bound := netip.MustParseAddrPort(addr)
			entries, err := os.ReadDir("/dev/fd")
			require.NoError(t, err)
			found := 0
			for _, e := range entries {
				fd, err := strconv.Atoi(e.Name())
				require.NoError(t, err)
				local, err := syscall.Getsockname(fd)
				if v4, ok := local.(*syscall.SockaddrInet4); err != nil || !ok || v4.Port != int(bound.Port()) {
					continue
				}
				kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
				require.NoError(t, err)
				if kind != syscall.SOCK_DGRAM {
					continue // another server's, over TCP
				}
				found++
				got, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
			assert.Equal(t, 1, found)
		})
	}
}

func TestPeerHTTPAnswersPipelinedRequests(t *testing.T) {
	eachPeer(t, HTTP, func(t *testing.T, addr string) {
		c := dial(t, addr, false)
		r := bufio.NewReader(c)
		one := "GET /hello HTTP/1.1\r\nHost: bench\r\n\r\n"
		for _, requests := range []string{one, one + one} { // the connection is kept
			require.NoError(t, inPieces(c, []byte(requests), 5, 1000))
			for range strings.Count(requests, one) {
				a, err := http.ReadResponse(r, nil)
				require.NoError(t, err)
				assert.Equal(t, http.StatusOK, a.StatusCode)
				assert.EqualValues(t, len(Hello), a.ContentLength)
				assert.False(t, a.Close)
				body, err := io.ReadAll(a.Body)
				require.NoError(t, err)
				assert.Equal(t, Hello, string(body))
			}
		}
	})
}

// join makes c a member of the Fanout service.
func join(t *testing.T, c net.Conn, role string) {
	t.Helper()
	require.NoError(t, inPieces(c, []byte(role), 1))
	require.NoError(t, expect(c, []byte(role)))
}

func TestPeerFanoutReachesEverySubscriber(t *testing.T) {
	eachPeer(t, Fanout, func(t *testing.T, addr string) {
		messages := noise(3, 100*FanoutSize)
		var group sync.WaitGroup
		for range 20 {
			c := dial(t, addr, false)
			join(t, c, "S")
			group.Go(func() { assert.NoError(t, expect(c, messages)) })
		}
		for range 5 {
			reset(t, addr, []byte("S"))
		}
		reset(t, addr, []byte("X")) // not a role
		publisher := dial(t, addr, false)
		join(t, publisher, "P")
		require.NoError(t, inPieces(publisher, messages, 1, 63, 64, 65, 200))
		group.Wait()
	})
}

func TestPeerFanoutKeepsASlowSubscribersBytesInOrder(t *testing.T) {
	eachPeer(t, Fanout, func(t *testing.T, addr string) {
		messages := noise(4, 4<<20)
		var group sync.WaitGroup
		for i := range 3 {
			c := dial(t, addr, i > 0)
			join(t, c, "S")
			group.Go(func() { assert.NoError(t, expect(c, messages)) })
		}
		publisher := dial(t, addr, false)
		join(t, publisher, "P")
		require.NoError(t, inPieces(publisher, messages, 100, 20000, 33))
		group.Wait()
	})
}

func TestMemberInputCutsMessagesAnywhere(t *testing.T) {
	stream := noise(5, 3*FanoutSize)
	sent := append([]byte{'P'}, stream...)
	for first := 1; first < len(sent); first++ {
		var m member
		var answers, got []byte
		for _, in := range [][]byte{sent[:first], sent[first:]} {
			answer, messages, err := m.input(in)
			require.NoError(t, err)
			require.Zero(t, len(messages)%FanoutSize)
			answers = append(answers, answer...)
			got = append(got, messages...)
		}
		require.Equal(t, "P", string(answers))
		require.Equal(t, stream, got, "cut after %d bytes", first)
	}
}

func TestSubscribersPublishForgetsThoseThatFail(t *testing.T) {
	var s subscribers[int]
	for i := range 6 {
		s.add(i)
	}
	s.publish(func(i int) error {
		if i%2 == 1 {
			return net.ErrClosed
		}
		return nil
	})
	var reached []int
	s.publish(func(i int) error {
		reached = append(reached, i)
		return nil
	})
	assert.Equal(t, []int{0, 2, 4}, reached)
}

func TestLaunchReportsAServerThatDoesNotStart(t *testing.T) {
	_, err := launch("broken", func(func(string)) error { return io.ErrUnexpectedEOF })
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	_, err = launch("broken", func(func(string)) error { return nil })
	assert.Error(t, err)
}

func TestContendersHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range All() {
		assert.False(t, seen[c.Name], c.Name)
		seen[c.Name] = true
		assert.NotEmpty(t, c.About, c.Name)
		found, ok := Find(c.Name)
		assert.True(t, ok, c.Name)
		assert.Equal(t, c.About, found.About)
	}
}

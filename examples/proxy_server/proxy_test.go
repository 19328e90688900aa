package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
	"github.com/stepio-go/stepio/sm"
)

// patience bounds everything a test waits for.
const patience = 20 * time.Second

// TestMain runs the tests and finds the goroutines that they leave behind.
func TestMain(m *testing.M) {
	flag.Parse()
	before := runtime.NumGoroutine()
	code := m.Run()
	for until := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(until) {
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after them:\n", before, runtime.NumGoroutine())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			os.Exit(1)
		}
	}
	os.Exit(code)
}

// proxy is a proxy on a loop in check mode, on a goroutine of its own. When the
// test ends, no task may be left, and nothing may have been reported.
type proxy struct {
	t    *testing.T
	loop *stepio.Loop
	pool *stepio.Pool
	to   *backend
	addr netip.AddrPort

	mu       sync.Mutex
	sessions []*session
	lines    []string // logged
}

// newProxy starts a proxy before the server of the address.
func newProxy(t *testing.T, addr string, dialPatience time.Duration) *proxy {
	p := &proxy{t: t, pool: stepio.NewPool(1, 64)}
	loop, err := stepio.NewLoop(stepio.WithChecks(), stepio.WithReport(func(task *sm.Task, err error) {
		t.Errorf("not expected: report of %v", err)
	}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p.loop = loop
	p.to = &backend{addr: addr, patience: dialPatience, quiet: 50 * time.Millisecond, pool: p.pool, ctx: ctx, logf: p.logf}
	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
	require.NoError(t, err)
	p.addr = ln.Addr()
	loop.Spawn(stepio.NewServe(ln, func(client *stepio.TCPConn) sm.Frame {
		s := newSession(client, p.to)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sessions = append(p.sessions, s)
		return s
	}))
	ran := make(chan error, 1)
	go func() { ran <- loop.Run() }()
	t.Cleanup(func() {
		loop.Stop()
		assert.NoError(t, <-ran)
		assert.NoError(t, loop.Close())
		assert.Zero(t, loop.Tasks(), "tasks left")
		cancel()
		p.pool.Stop()
		p.pool.Join()
	})
	return p
}

func (p *proxy) logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, fmt.Sprintf(format, args...))
}

func (p *proxy) logged() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// client connects to the proxy.
func (p *proxy) client() *net.TCPConn {
	p.t.Helper()
	conn, err := net.Dial("tcp", p.addr.String())
	require.NoError(p.t, err)
	p.t.Cleanup(func() { _ = conn.Close() }) // most tests have closed it
	require.NoError(p.t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

// onLoop runs fn on the proxy's loop.
func (p *proxy) onLoop(fn func()) {
	p.t.Helper()
	done := make(chan struct{})
	require.NoError(p.t, p.loop.Post(func() { defer close(done); fn() }))
	<-done
}

// idle waits until no session is left: one task is, the acceptor.
func (p *proxy) idle() {
	p.t.Helper()
	tasks := 0
	eventually(p.t, func() bool {
		p.onLoop(func() { tasks = p.loop.Tasks() })
		return tasks == 1
	}, func() string {
		var dump bytes.Buffer
		p.onLoop(func() { _ = p.loop.Dump(&dump) })
		return dump.String()
	})
}

func eventually(t *testing.T, done func() bool, otherwise func() string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(until) {
			t.Fatalf("not in %v:\n%s", patience, otherwise())
		}
	}
}

// server is the backend.
type server struct {
	*net.TCPListener
	t *testing.T
}

func newServer(t *testing.T) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = ln.Close() }) // some tests have closed it
	s := &server{ln.(*net.TCPListener), t}
	require.NoError(t, s.SetDeadline(time.Now().Add(patience)))
	return s
}

func (s *server) accept() *net.TCPConn {
	s.t.Helper()
	conn, err := s.AcceptTCP()
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() }) // most tests have closed it
	require.NoError(s.t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// pair is a client and what the backend has of it.
func pair(t *testing.T) (p *proxy, client, server *net.TCPConn) {
	s := newServer(t)
	p = newProxy(t, s.Addr().String(), patience)
	client = p.client()
	return p, client, s.accept()
}

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(conn, text)
	require.NoError(t, err)
}

func read(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	require.NoError(t, err)
	require.Equal(t, text, string(got))
}

func atEnd(t *testing.T, conn net.Conn) {
	t.Helper()
	n, err := conn.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
}

func isReset(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// reset closes conn by a reset.
func reset(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	require.NoError(t, conn.SetLinger(0))
	require.NoError(t, conn.Close())
}

// ends names the two ends of a session, for tests of either direction.
var ends = map[string]func(client, server *net.TCPConn) (near, far *net.TCPConn){
	"client to server": func(client, server *net.TCPConn) (near, far *net.TCPConn) { return client, server },
	"server to client": func(client, server *net.TCPConn) (near, far *net.TCPConn) { return server, client },
}

func TestSessionPassesBothDirectionsAtOnce(t *testing.T) {
	const size = 8 << 20
	p, client, server := pair(t)
	var wg sync.WaitGroup
	sums := make(chan [32]byte, 4)
	for i, conn := range []*net.TCPConn{client, server} {
		wg.Go(func() {
			sum := sha256.New()
			random := rand.NewChaCha8([32]byte{byte(i)})
			_, err := io.Copy(io.MultiWriter(conn, sum), io.LimitReader(random, size))
			assert.NoError(t, err)
			assert.NoError(t, conn.CloseWrite())
			sums <- [32]byte(sum.Sum(nil))
		})
		wg.Go(func() {
			sum := sha256.New()
			n, err := io.Copy(sum, conn)
			assert.NoError(t, err)
			assert.EqualValues(t, size, n)
			sums <- [32]byte(sum.Sum(nil))
		})
	}
	wg.Wait()
	times := make(map[[32]byte]int)
	for range 4 {
		times[<-sums]++
	}
	for sum, n := range times {
		assert.Equal(t, 2, n, "%x was sent or received once", sum)
	}
	assert.Len(t, times, 2)
	p.idle()
}

// The original ends both directions at the first end of input.
func TestSessionPassesHalfCloseOn(t *testing.T) {
	for name, pick := range ends {
		t.Run(name, func(t *testing.T) {
			p, client, server := pair(t)
			near, far := pick(client, server)
			write(t, near, "question")
			require.NoError(t, near.CloseWrite())
			read(t, far, "question")
			atEnd(t, far)
			for range 3 {
				write(t, far, "answer")
				read(t, near, "answer")
			}
			require.NoError(t, far.CloseWrite())
			atEnd(t, near)
			p.idle()
			assert.Empty(t, p.logged())
		})
	}
}

func TestSessionEndsAtOnceWhenBothDirectionsHave(t *testing.T) {
	const sessions = 10
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	began := time.Now()
	for range sessions {
		client := p.client()
		server := s.accept()
		require.NoError(t, client.CloseWrite())
		atEnd(t, server)
		require.NoError(t, server.CloseWrite())
		atEnd(t, client)
		p.idle()
	}
	assert.Less(t, time.Since(began), sessions*lookEvery/2, "and not when a reset is looked for")
}

func TestSessionPassesHalfCloseOnBeforeItIsConnected(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	release := blockPool(t, p.pool)
	client := p.client()
	write(t, client, "question")
	require.NoError(t, client.CloseWrite())
	release()
	server := s.accept()
	read(t, server, "question")
	atEnd(t, server)
	write(t, server, "answer")
	require.NoError(t, server.Close())
	read(t, client, "answer")
	atEnd(t, client)
	p.idle()
}

// blockPool keeps the pool's only worker busy until release is called.
func blockPool(t *testing.T, pool *stepio.Pool) (release func()) {
	gate := make(chan struct{})
	release = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(release)
	require.NoError(t, pool.TrySubmit(func() { <-gate }))
	return release
}

// stuff writes to conn until it takes no more, and says how much it took.
func stuff(t *testing.T, conn *net.TCPConn, most int) (n int) {
	t.Helper()
	block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	defer func() { require.NoError(t, conn.SetWriteDeadline(time.Now().Add(patience))) }()
	for n < most {
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		m, err := conn.Write(block)
		n += m
		if err != nil {
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			return n
		}
	}
	t.Fatalf("%d bytes were taken that nobody read", n)
	return n
}

func TestSessionStopsReadingForASlowEnd(t *testing.T) {
	// The buffers of four sockets, and what one way may hold.
	const most = 64 << 20
	for name, pick := range ends {
		t.Run(name, func(t *testing.T) {
			p, client, server := pair(t)
			near, far := pick(client, server)
			before := heap()
			n := stuff(t, near, most)
			t.Logf("%d bytes were taken", n)
			assert.Less(t, heap()-before, int64(1<<20), "memory grows with what is not read")

			write(t, far, "the other way") // goes on meanwhile
			read(t, near, "the other way")

			require.NoError(t, near.CloseWrite())
			got, err := io.Copy(io.Discard, far)
			require.NoError(t, err)
			assert.EqualValues(t, n, got, "what was taken arrives, and then the end")
			require.NoError(t, far.Close())
			atEnd(t, near)
			p.idle()
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestSessionEndsOnBothSidesByAReset(t *testing.T) {
	states := map[string]func(t *testing.T, near, far *net.TCPConn){
		"while nothing is sent": func(t *testing.T, near, far *net.TCPConn) {},
		"after it has finished sending": func(t *testing.T, near, far *net.TCPConn) {
			require.NoError(t, near.CloseWrite())
			atEnd(t, far)
		},
		"after the other has finished sending": func(t *testing.T, near, far *net.TCPConn) {
			require.NoError(t, far.CloseWrite())
			atEnd(t, near)
		},
		"while the other does not read": func(t *testing.T, near, far *net.TCPConn) { stuff(t, near, 64<<20) },
		"while it does not read":        func(t *testing.T, near, far *net.TCPConn) { stuff(t, far, 64<<20) },
	}
	for state, prepare := range states {
		for name, pick := range ends {
			t.Run(name+" "+state, func(t *testing.T) {
				p, client, server := pair(t)
				near, far := pick(client, server)
				write(t, client, "connected")
				read(t, server, "connected")
				prepare(t, near, far)
				reset(t, near)
				p.idle()
				if state != "after it has finished sending" { // else far has read the end before
					isReset(t, far)
				}
				assert.Empty(t, p.logged(), "a reset is no failure of the backend's")
			})
		}
	}
}

func TestSessionEndsAloneWhenTheBackendRefuses(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	first := p.client()
	server := s.accept()
	require.NoError(t, s.Close())

	refused := p.client()
	atEnd(t, refused)
	lines := p.logged()
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "connection refused")
	assert.NotContains(t, lines[0], "\n")

	write(t, first, "still")
	read(t, server, "still")
	write(t, server, "here")
	read(t, first, "here")
}

func TestSessionEndsAloneWhenTheBackendIsSilent(t *testing.T) {
	addr := silent(t)
	p := newProxy(t, addr, 200*time.Millisecond)
	clients := []*net.TCPConn{p.client(), p.client()}
	for _, c := range clients {
		atEnd(t, c)
	}
	p.idle()
	require.Len(t, p.logged(), 2)
	assert.Contains(t, p.logged()[0], "i/o timeout")
}

func TestSessionNamesAClientThatHasGone(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	require.NoError(t, s.Close())
	release := blockPool(t, p.pool)
	client := p.client()
	p.awaitResolving()
	reset(t, client)
	release()
	p.idle()
	require.Len(t, p.logged(), 1)
	assert.Contains(t, p.logged()[0], "client "+client.LocalAddr().String()+": ")

	assert.NotContains(t, new(connect).client(), "invalid")
}

// silent is an address that does not answer: of a listener whose queue is full.
func silent(t *testing.T) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) }) // it was open
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 64 {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() }) // it was open
	}
	t.Skip("the kernel answers however full a listener's queue is")
	return ""
}

func TestSessionEndsAloneWhenTheNameIsNotFound(t *testing.T) {
	p := newProxy(t, "no..name:1", patience)
	atEnd(t, p.client())
	atEnd(t, p.client())
	p.idle()
	require.Len(t, p.logged(), 2)
	assert.Contains(t, p.logged()[0], "no..name")
}

func TestSessionEndsWhenResolvingTakesTooLong(t *testing.T) {
	p := newProxy(t, "127.0.0.1:1", 100*time.Millisecond)
	blockPool(t, p.pool)
	atEnd(t, p.client())
	p.idle()
	require.Len(t, p.logged(), 1)
	assert.Contains(t, p.logged()[0], "resolving")
}

func TestSessionIsDestroyedWhileItIsResolving(t *testing.T) {
	p := newProxy(t, "127.0.0.1:1", patience)
	blockPool(t, p.pool)
	p.client()
	p.awaitResolving()
	// The proxy ends with the test, and finds what is left.
}

// awaitResolving waits until the only session asks the resolver.
func (p *proxy) awaitResolving() {
	p.t.Helper()
	eventually(p.t, func() (resolving bool) {
		p.onLoop(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			resolving = len(p.sessions) == 1 && p.sessions[0].connect.state == connectResolving
		})
		return resolving
	}, func() string { return "the session does not resolve" })
}

func TestConnectTriesEveryAddress(t *testing.T) {
	s := newServer(t)
	dead := newServer(t)
	require.NoError(t, dead.Close())
	p := newProxy(t, "unused:1", 600*time.Millisecond) // 200 and more for the silent one
	p.to.mu.Lock()
	p.to.known = answer{
		addrs: []netip.AddrPort{
			dead.Addr().(*net.TCPAddr).AddrPort(),
			netip.MustParseAddrPort(silent(t)),
			s.Addr().(*net.TCPAddr).AddrPort(),
		},
		until: time.Now().Add(time.Hour),
	}
	p.to.mu.Unlock()
	client := p.client()
	server := s.accept()
	write(t, client, "found")
	read(t, server, "found")
	assert.Empty(t, p.logged())
}

func TestConnectResolvesANameOnce(t *testing.T) {
	s := newServer(t)
	_, port, err := net.SplitHostPort(s.Addr().String())
	require.NoError(t, err)
	p := newProxy(t, net.JoinHostPort("localhost", port), patience)
	p.client()
	s.accept()
	first, ok := p.to.lookUp(time.Now())
	require.True(t, ok)
	p.client()
	s.accept()
	second, _ := p.to.lookUp(time.Now())
	assert.Equal(t, first.until, second.until)
	_, ok = p.to.lookUp(time.Now().Add(answerLife))
	assert.False(t, ok, "an answer ends")
}

// The original leaks a reader a session.
func TestSessionLeavesNothing(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.Addr().String(), patience)
	session := func(i int) {
		client := p.client()
		server := s.accept()
		write(t, client, "question")
		read(t, server, "question")
		switch i % 5 {
		case 0: // the client goes first
			require.NoError(t, client.Close())
			atEnd(t, server)
			require.NoError(t, server.Close())
		case 1: // the server does
			require.NoError(t, server.Close())
			atEnd(t, client)
			require.NoError(t, client.Close())
		case 2:
			reset(t, client)
			isReset(t, server)
			require.NoError(t, server.Close())
		case 3:
			reset(t, server)
			isReset(t, client)
			require.NoError(t, client.Close())
		case 4: // the server closes with input that nobody reads
			write(t, client, strings.Repeat("x", 1<<16))
			require.NoError(t, server.Close())
			_, _ = io.Copy(io.Discard, client) // an end or a reset
			require.NoError(t, client.Close())
		}
	}
	session(0)
	p.idle()
	before := descriptors(t)
	for i := range 200 {
		session(i)
	}
	p.idle()
	assert.Equal(t, before, descriptors(t))
}

// descriptors is how many the process has open.
func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/dev/fd")
	require.NoError(t, err)
	return len(entries)
}

// The original leaves Nagle's algorithm on, which holds the second of two small
// writes back for 40 ms.
func TestSessionDoesNotDelaySmallWrites(t *testing.T) {
	p, client, server := pair(t)
	write(t, client, "through")
	read(t, server, "through")
	p.onLoop(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range []*stepio.TCPConn{p.sessions[0].client, p.sessions[0].server} {
			on, err := syscall.GetsockoptInt(conn.FD(), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
			assert.NoError(t, err)
			assert.NotZero(t, on)
		}
	})
}

// A peer that has vanished without a word ends its session some day.
func TestSessionKeepsBothConnectionsAlive(t *testing.T) {
	p, client, server := pair(t)
	write(t, client, "through")
	read(t, server, "through")
	p.onLoop(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, conn := range []*stepio.TCPConn{p.sessions[0].client, p.sessions[0].server} {
			on, err := syscall.GetsockoptInt(conn.FD(), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			assert.NoError(t, err)
			assert.NotZero(t, on)
		}
	})
}

func TestStatesHaveNames(t *testing.T) {
	assert.Equal(t, "sessionPassing", sessionPassing.String())
	assert.Equal(t, "wayEnded", wayEnded.String())
	assert.Equal(t, "connectDialing", connectDialing.String())
}

func TestFramesPanicWithAnUnknownState(t *testing.T) {
	assert.PanicsWithValue(t, "session.Step: state 9", func() { (&session{state: 9}).Step(nil) })
	assert.PanicsWithValue(t, "way.Step: state 9", func() { (&way{state: 9}).Step(nil) })
	assert.PanicsWithValue(t, "connect.Step: state 9", func() { (&connect{state: 9}).Step(nil) })
}

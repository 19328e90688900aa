package load

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

// TestMain finds descriptors and goroutines that were left behind.
func TestMain(m *testing.M) {
	flag.Parse()
	goroutines, fds := runtime.NumGoroutine(), countFDs()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // the fuzzer has goroutines of its own
	}
	for deadline := time.Now().Add(5 * time.Second); code == 0; runtime.Gosched() {
		g, f := runtime.NumGoroutine(), countFDs()
		if g <= goroutines && f <= fds+1 { // the runtime's own epoll instance and its eventfd
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintf(os.Stderr, "left behind: goroutines %d -> %d, descriptors %d -> %d\n", goroutines, g, fds, f)
			code = 1
		}
	}
	os.Exit(code)
}

func countFDs() int {
	// A connection in package net first, so that the runtime has its poller.
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		if err := l.Close(); err != nil {
			panic(err)
		}
	}
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(list)
}

func testClient(t testing.TB) *client {
	c, err := newClient()
	require.NoError(t, err)
	t.Cleanup(func() {
		require.Zero(t, c.under+c.sockets)
		require.NoError(t, c.release())
	})
	return c
}

// must carries out a command that succeeds.
func must(t testing.TB, c *client, cmd Command) Window {
	t.Helper()
	r := c.do(cmd)
	require.Empty(t, r.Error)
	return r.Window
}

func checkWindow(t *testing.T, w Window, length time.Duration) {
	t.Helper()
	h, err := hdrhistogram.Decode(w.Latency)
	require.NoError(t, err)
	require.Positive(t, w.Requests)
	require.Equal(t, w.Requests, h.TotalCount())
	require.Positive(t, h.Min())
	require.LessOrEqual(t, time.Duration(h.ValueAtQuantile(50)), w.Elapsed+w.Elapsed/500) // three digits
	require.Greater(t, w.Elapsed, length/2)
	require.Positive(t, w.CPU)
	require.LessOrEqual(t, w.CPU, w.Client) // in a test they are one process, and the server's clock is read inside
}

func httpOK(int, int) []byte {
	return []byte("HTTP/1.1 200 OK\r\nServer: test\r\ncontent-length: " + fmt.Sprint(len(contend.Hello)) + "\r\n\r\n" + contend.Hello)
}

func TestClientRunsEveryKind(t *testing.T) {
	std := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hello" {
			http.NotFound(w, r)
			return
		}
		if _, err := io.WriteString(w, contend.Hello); err != nil {
			t.Errorf("hello: %v", err)
		}
	}))
	t.Cleanup(std.Close)
	cases := []struct {
		name string
		addr string
		spec Spec
	}{
		{"echo of 64 bytes", serveEcho(t, 64, honest), Spec{Kind: Echo, Conns: 10, Size: 64, Depth: 1}},
		{"echo of the smallest message", serveEcho(t, 16, honest), Spec{Kind: Echo, Conns: 3, Size: 16, Depth: 1}},
		{"echo of a size that is no multiple of 8", serveEcho(t, 61, honest), Spec{Kind: Echo, Conns: 3, Size: 61, Depth: 3}},
		{"a pipeline", serveEcho(t, 64, honest), Spec{Kind: Echo, Conns: 5, Size: 64, Depth: 16}},
		{"a pipeline that is answered in pieces of 7 bytes", serveEcho(t, 7, honest), Spec{Kind: Echo, Conns: 2, Size: 70, Depth: 4}},
		{"64 KiB messages", serveEcho(t, 64<<10, honest), Spec{Kind: Echo, Conns: 4, Size: 64 << 10, Depth: 1}},
		{"a message that fills no socket buffer at once", serveEcho(t, 1000, honest), Spec{Kind: Echo, Conns: 2, Size: 3_000_000, Depth: 2}},
		{"a pace", serveEcho(t, 64, honest), Spec{Kind: Paced, Conns: 10, Size: 64, Depth: 1, Pace: 100 * time.Microsecond}},
		{"a pace that one connection cannot keep", serveEcho(t, 64, honest), Spec{Kind: Paced, Conns: 1, Size: 64, Depth: 1, Pace: 100 * time.Nanosecond}},
		{"churn", serveEcho(t, 64, honest), Spec{Kind: Churn, Conns: 5, Size: 64, Depth: 1}},
		{"churn of long messages", serveEcho(t, 1<<16, honest), Spec{Kind: Churn, Conns: 2, Size: 1 << 20, Depth: 1}},
		{"datagrams", serveUDP(t, func(_ int, b []byte) []byte { return b }), Spec{Kind: UDP, Conns: 5, Size: 64, Depth: 1}},
		{"many datagrams under way", serveUDP(t, func(_ int, b []byte) []byte { return b }), Spec{Kind: UDP, Conns: 3, Size: 64, Depth: 16}},
		{"HTTP by net/http", std.Listener.Addr().String(), Spec{Kind: HTTP, Conns: 5, Depth: 1}},
		{"HTTP pipelined", serveHTTP(t, httpOK), Spec{Kind: HTTP, Conns: 5, Depth: 16}},
		{"fan-out", serveFanout(t, honest), Spec{Kind: Fanout, Conns: 150, Size: contend.FanoutSize, Depth: 1}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := testClient(t)
			tc.spec.Addr = tc.addr
			must(t, c, Command{Op: "open", Spec: tc.spec})
			for range 3 {
				w := must(t, c, Command{Op: "run", Window: 30 * time.Millisecond, PID: os.Getpid()})
				checkWindow(t, w, 30*time.Millisecond)
				require.Zero(t, w.Lost)
				require.Zero(t, c.under)
				if tc.spec.Kind == Fanout {
					require.Zero(t, w.Requests%int64(tc.spec.Conns))
				}
			}
			must(t, c, Command{Op: "close"})
		})
	}
}

func TestClientCountsWhatTheServerSaw(t *testing.T) {
	var mu sync.Mutex
	seen := int64(0)
	c := testClient(t)
	addr := serveEcho(t, 32, func(_, _ int, msg []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		seen++
		return msg, nil
	})
	must(t, c, Command{Op: "open", Spec: Spec{Kind: Echo, Addr: addr, Conns: 120, Size: 32, Depth: 4}})
	count := func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
	require.EqualValues(t, 120, count())
	before := count()
	w := must(t, c, Command{Op: "run", Window: 30 * time.Millisecond})
	require.Equal(t, before+w.Requests, count())
	require.Zero(t, w.CPU)
	must(t, c, Command{Op: "close"})
}

// A paced load is of as many messages as fit its window, and those that could not
// go out in their turn count from it.
func TestPacedLoadKeepsItsPace(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("SKIPPED, NOT TESTED: the client never sleeps, and here the server is in its process: two processors are needed")
	}
	for _, conns := range []int{1, 10} {
		t.Run(fmt.Sprintf("%d connections", conns), func(t *testing.T) { pacedWithAPause(t, conns) })
	}
}

func pacedWithAPause(t *testing.T, conns int) {
	const pause = 60 * time.Millisecond
	var all sync.Mutex // the whole server pauses
	paused := false
	addr := serveEcho(t, 64, func(_, n int, msg []byte) ([]byte, error) {
		all.Lock()
		defer all.Unlock()
		if n >= 3 && !paused {
			paused = true
			time.Sleep(pause)
		}
		return msg, nil
	})
	c := testClient(t)
	must(t, c, Command{Op: "open", Spec: Spec{Kind: Paced, Addr: addr, Conns: conns, Size: 64, Depth: 1, Pace: time.Millisecond}})
	w := must(t, c, Command{Op: "run", Window: 200 * time.Millisecond})
	must(t, c, Command{Op: "close"})
	require.LessOrEqual(t, w.Requests, int64(200))
	require.Greater(t, w.Requests, int64(50), "on a machine that is not too busy")
	h, err := hdrhistogram.Decode(w.Latency)
	require.NoError(t, err)
	// The pause is the wait of one message, and of the fifty behind it for what is left.
	require.GreaterOrEqual(t, h.Max(), int64(pause)*99/100)
	late := 0
	for _, bar := range h.Distribution() {
		if bar.To >= int64(pause)/5 {
			late += int(bar.Count)
		}
	}
	require.GreaterOrEqual(t, late, 40)
}

// spin uses that much CPU time, by the thread's own clock.
func spin(d time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var began, now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &began); err != nil {
		return err
	}
	for now = began; time.Duration(now.Nano()-began.Nano()) < d; {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
			return err
		}
	}
	return nil
}

// A server has something to do after its last answer, and while it runs, its
// clock lags behind.
func TestWindowHasAllCPUTimeOfTheServer(t *testing.T) {
	const each = 3 * time.Millisecond
	var busy sync.Mutex // held while the server works on what is answered already
	var spun atomic.Int64
	addr := serveTCP(t, func(_ int, c net.Conn) {
		msg := make([]byte, 16)
		work := func() bool {
			if _, err := io.ReadFull(c, msg); err != nil {
				return false
			}
			busy.Lock()
			defer busy.Unlock()
			if _, err := c.Write(msg); err != nil {
				return false
			}
			if err := spin(each); err != nil {
				t.Errorf("clock: %v", err)
			}
			spun.Add(int64(each))
			return true
		}
		for work() {
		}
	})
	c := testClient(t)
	must(t, c, Command{Op: "open", Spec: Spec{Kind: Echo, Addr: addr, Conns: 1, Size: 16, Depth: 1}})
	idle := func() {
		busy.Lock()
		defer busy.Unlock()
	}
	idle()
	spun.Store(0)
	var counted time.Duration
	for range 20 {
		counted += must(t, c, Command{Op: "run", Window: time.Millisecond, PID: os.Getpid()}).CPU
		idle() // others have their windows now
	}
	must(t, c, Command{Op: "close"})
	require.GreaterOrEqual(t, counted, time.Duration(spun.Load())*9/10)
}

func TestChurnIsANewConnectionForEachRequest(t *testing.T) {
	var accepted, reset atomic.Int64
	addr := serveTCP(t, func(_ int, c net.Conn) {
		accepted.Add(1)
		msg := make([]byte, 64)
		if _, err := io.ReadFull(c, msg); err != nil {
			return
		}
		if _, err := c.Write(msg); err != nil {
			return
		}
		if _, err := c.Read(msg); errors.Is(err, syscall.ECONNRESET) {
			reset.Add(1)
		}
	})
	c := testClient(t)
	must(t, c, Command{Op: "open", Spec: Spec{Kind: Churn, Addr: addr, Conns: 4, Size: 64, Depth: 1}})
	want := int64(1)
	for range 3 {
		want += must(t, c, Command{Op: "run", Window: 20 * time.Millisecond}).Requests
		require.Zero(t, c.sockets)
	}
	must(t, c, Command{Op: "close"})
	require.Equal(t, want, accepted.Load())
	require.Eventually(t, func() bool { return reset.Load() == want }, 5*time.Second, time.Millisecond)
}

func TestClientIdleGoesUpAndDown(t *testing.T) {
	for _, kind := range []Kind{Echo, HTTP} {
		t.Run(string(kind), func(t *testing.T) {
			var mu sync.Mutex
			open, peers := 0, map[string]bool{}
			count := func(d int) int {
				mu.Lock()
				defer mu.Unlock()
				open += d
				return open
			}
			c := testClient(t)
			c.perSource = 100
			var addr string
			buf := 64
			ready := make(chan struct{})
			addr = serveTCP(t, func(_ int, conn net.Conn) {
				<-ready
				defer count(-1)
				count(1)
				mu.Lock()
				peers[conn.RemoteAddr().(*net.TCPAddr).IP.String()] = true
				mu.Unlock()
				msg := make([]byte, buf)
				for {
					if _, err := io.ReadFull(conn, msg); err != nil {
						return
					}
					out := msg
					if kind == HTTP {
						out = httpOK(0, 0)
					}
					if _, err := conn.Write(out); err != nil {
						return
					}
				}
			})
			if kind == HTTP {
				buf = len("GET /hello HTTP/1.1\r\nHost: \r\n\r\n") + len(addr)
			}
			close(ready)
			must(t, c, Command{Op: "open", Spec: Spec{Kind: kind, Addr: addr, Conns: 0, Size: 64, Depth: 1}})
			for _, n := range []int{5, 320, 7, 0, 150} {
				must(t, c, Command{Op: "idle", Idle: n})
				require.Equal(t, n, c.sockets)
				require.Eventually(t, func() bool { return count(0) == n }, 5*time.Second, time.Millisecond)
			}
			mu.Lock()
			got := maps.Clone(peers)
			mu.Unlock()
			require.Equal(t, map[string]bool{"127.0.0.1": true, "127.0.0.2": true, "127.0.0.3": true, "127.0.0.4": true}, got)
			require.Contains(t, c.do(Command{Op: "run", Window: time.Millisecond}).Error, "idle connections only")
			must(t, c, Command{Op: "open", Spec: Spec{Kind: kind, Addr: addr, Conns: 10, Size: 64, Depth: 1}})
			must(t, c, Command{Op: "idle", Idle: 40})
			w := must(t, c, Command{Op: "run", Window: 10 * time.Millisecond})
			require.Positive(t, w.Requests)
			require.Equal(t, 50, count(0))
			must(t, c, Command{Op: "close"})
			require.Eventually(t, func() bool { return count(0) == 0 }, 5*time.Second, time.Millisecond)
		})
	}
}

func TestClientAllocatesNothingInAWindow(t *testing.T) {
	cases := []struct {
		name string
		addr string
		spec Spec
	}{
		{"echo", serveEcho(t, 64, honest), Spec{Kind: Echo, Conns: 10, Size: 64, Depth: 1}},
		{"a pipeline", serveEcho(t, 64, honest), Spec{Kind: Echo, Conns: 10, Size: 64, Depth: 8}},
		{"datagrams", serveUDP(t, func(_ int, b []byte) []byte { return b }), Spec{Kind: UDP, Conns: 5, Size: 64, Depth: 4}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			c := testClient(t)
			tc.spec.Addr = tc.addr
			must(t, c, Command{Op: "open", Spec: tc.spec})
			must(t, c, Command{Op: "run", Window: 10 * time.Millisecond})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := c.drive(100 * time.Millisecond)
			runtime.ReadMemStats(&after)
			require.NoError(t, err)
			require.Greater(t, c.done, int64(500))
			// The test's own goroutines and timers may cost a few, whatever the requests.
			require.Less(t, after.Mallocs-before.Mallocs, uint64(50))
			must(t, c, Command{Op: "close"})
		})
	}
}

func TestClientSpeaksJSON(t *testing.T) {
	addr := serveEcho(t, 64, honest)
	in, commands := io.Pipe()
	replies, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- answer(in, out) }()
	enc, dec := json.NewEncoder(commands), json.NewDecoder(replies)
	ask := func(cmd Command) Reply {
		require.NoError(t, enc.Encode(cmd))
		var r Reply
		require.NoError(t, dec.Decode(&r))
		return r
	}
	require.Empty(t, ask(Command{Op: "open", Spec: Spec{Kind: Echo, Addr: addr, Conns: 4, Size: 64, Depth: 2}}).Error)
	require.Empty(t, ask(Command{Op: "idle", Idle: 3}).Error)
	r := ask(Command{Op: "run", Window: 20 * time.Millisecond, PID: os.Getpid()})
	require.Empty(t, r.Error)
	checkWindow(t, r.Window, 20*time.Millisecond)
	require.Empty(t, ask(Command{Op: "close"}).Error)
	require.Contains(t, ask(Command{Op: "run", Window: time.Second}).Error, "nothing is open")
	require.Contains(t, ask(Command{Op: "sing"}).Error, `unknown operation "sing"`)
	require.NoError(t, commands.Close())
	require.NoError(t, <-ended)
}

func TestClientReportsBadInput(t *testing.T) {
	require.ErrorContains(t, answer(strings.NewReader("{\"op\":"), io.Discard), "a command")
}

func TestClientRefusesBadCommands(t *testing.T) {
	good := Spec{Kind: Echo, Addr: "127.0.0.1:9", Conns: 1, Size: 64, Depth: 1}
	with := func(change func(*Spec)) Command {
		s := good
		change(&s)
		return Command{Op: "open", Spec: s}
	}
	cases := []struct {
		want string
		cmd  Command
	}{
		{`unknown kind "x"`, with(func(s *Spec) { s.Kind = "x" })},
		{"messages of 15 bytes", with(func(s *Spec) { s.Size = 15 })},
		{"messages of 65508 bytes", with(func(s *Spec) { s.Kind, s.Size = UDP, 65508 })},
		{"messages of 65 bytes", with(func(s *Spec) { s.Kind, s.Size = Fanout, 65 })},
		{"depth 0", with(func(s *Spec) { s.Depth = 0 })},
		{"depth 2", with(func(s *Spec) { s.Kind, s.Depth = Churn, 2 })},
		{"depth 3", with(func(s *Spec) { s.Kind, s.Depth, s.Pace = Paced, 3, 1 })},
		{"paced: a pace of 0s", with(func(s *Spec) { s.Kind = Paced })},
		{"echo: a pace of 1ns", with(func(s *Spec) { s.Pace = 1 })},
		{"paced: 0 connections", with(func(s *Spec) { s.Kind, s.Conns, s.Pace = Paced, 0, 1 })},
		{"-1 connections", with(func(s *Spec) { s.Conns = -1 })},
		{"0 connections", with(func(s *Spec) { s.Kind, s.Conns = UDP, 0 })},
		{"not an IPv4 address", with(func(s *Spec) { s.Addr = "[::1]:9" })},
		{"nothing is open", Command{Op: "idle", Idle: 1}},
		{"nothing is open", Command{Op: "run", Window: time.Second}},
	}
	for _, tc := range cases {
		t.Run(tc.want, func(t *testing.T) {
			require.Contains(t, testClient(t).do(tc.cmd).Error, tc.want)
		})
	}
	t.Run("idle datagrams", func(t *testing.T) {
		c := testClient(t)
		addr := serveUDP(t, func(_ int, b []byte) []byte { return b })
		must(t, c, Command{Op: "open", Spec: Spec{Kind: UDP, Addr: addr, Conns: 1, Size: 64, Depth: 1}})
		require.Contains(t, c.do(Command{Op: "idle", Idle: 1}).Error, "idle: not with udp")
	})
	t.Run("a second load", func(t *testing.T) {
		c := testClient(t)
		cmd := with(func(s *Spec) { s.Addr, s.Conns = serveEcho(t, 64, honest), 1 })
		must(t, c, cmd)
		require.Contains(t, c.do(cmd).Error, "the last load is not closed")
	})
	t.Run("a process that is gone", func(t *testing.T) {
		c := testClient(t)
		must(t, c, with(func(s *Spec) { s.Addr = serveEcho(t, 64, honest) }))
		require.Contains(t, c.do(Command{Op: "run", Window: time.Second, PID: 1 << 25}).Error, "CPU clock of process")
	})
}

func TestPatternFindsEveryByte(t *testing.T) {
	p := newPattern(61)
	h := head(7, 9)
	msg := make([]byte, 61)
	require.Equal(t, 61, p.fill(msg, h, 0))
	for from := range 61 {
		for to := from + 1; to <= 61; to++ {
			piece := make([]byte, to-from)
			require.Equal(t, len(piece), p.fill(piece, h, from))
			require.Equal(t, msg[from:to], piece)
			require.NoError(t, p.check(piece, h, from))
			at := (from*31 + to) % len(piece)
			piece[at] ^= 0x10
			var wrong *wrongByte
			require.ErrorAs(t, p.check(piece, h, from), &wrong)
			require.Equal(t, wrongByte{seq: 9, size: 61, off: from + at, want: msg[from+at], got: piece[at]}, *wrong)
		}
	}
	other := slices.Clone(msg)
	p.fill(other, head(8, 9), 0)
	require.Error(t, p.check(other, h, 0))
	p.fill(other, head(7, 10), 0)
	require.Error(t, p.check(other, h, 0))
}

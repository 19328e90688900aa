package main

// The figures of an echo, taken on the real program as a process of its own:
// what the kernel is asked for a request, and what an idle connection costs.
//
//	go test -count=1 -v -run Figures ./examples/tcp_echo_server
//	go test -run '^$' -bench . ./examples/tcp_echo_server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/examples/internal/built"
	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

const messageSize = 64

// server is a running tcp_echo_server.
type server struct {
	addr string
	pid  int
}

var build = sync.OnceValues(func() (path string, err error) {
	dir, err := os.MkdirTemp("", "stepio")
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "tcp_echo_server"), built.Programs(dir, false, ".")
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // best effort, in the system's temporary folder
	}
	os.Exit(code)
}

// startServer runs the program until the test ends, when SIGTERM must stop it.
func startServer(t testing.TB) server {
	path, err := build()
	require.NoError(t, err)
	cmd := exec.Command(path, "-addr", "127.0.0.1:0", "-loops", "1", "-workers", "0")
	// One processor of the Go scheduler, as it has one loop. With one to spare, as
	// the server has by itself, a thread looks for work every 5 ms, about one futex
	// call a time: little in 1,000 requests, but under strace there are no 50.
	if os.Getenv("GOMAXPROCS") == "" {
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, cmd.Wait(), "a clean stop")
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, "the first line is %q", line)
	return server{addr, cmd.Process.Pid}
}

// client is one connection. It is closed by a reset, which leaves no TIME_WAIT.
type client struct {
	conn      net.Conn
	sent, got [messageSize]byte
}

func (s server) dial() (*client, error) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn}
	for i := range c.sent {
		c.sent[i] = byte(i * 7)
	}
	return c, errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.SetDeadline(time.Now().Add(2*time.Minute)))
}

// ping sends a message and checks that it comes back.
func (c *client) ping() error {
	c.sent[0]++
	if _, err := c.conn.Write(c.sent[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.conn, c.got[:]); err != nil {
		return err
	}
	if c.sent != c.got {
		return fmt.Errorf("sent %x, got %x", c.sent, c.got)
	}
	return nil
}

// connect opens n connections, each of which has been used once.
func (s server) connect(t testing.TB, n int) []*client {
	clients := make([]*client, n)
	for i := range clients {
		c, err := s.dial()
		require.NoError(t, err)
		require.NoError(t, c.ping())
		clients[i] = c
	}
	t.Cleanup(func() {
		for _, c := range clients {
			assert.NoError(t, c.conn.Close())
		}
	})
	return clients
}

// pingAll has every client ping in a loop, at once, until more says no. It
// returns how many pings there were.
func pingAll(t testing.TB, clients []*client, more func(done int64) bool) int64 {
	var done atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, len(clients))
	for _, c := range clients {
		wg.Go(func() {
			for more(done.Load()) {
				if err := c.ping(); err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		require.NoError(t, err)
	}
	return done.Load()
}

// The steady state of an echo: one read and one write a request, a share of an
// epoll_wait, and nothing else.
func TestEchoServerFiguresOfSyscalls(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: strace is not installed (Debian: apt-get install strace)")
	}
	s := startServer(t)
	clients := s.connect(t, 100)
	var requests float64
	var calls map[string]float64
	// The Go runtime makes a few calls a second of its own, whatever the number
	// of requests: on a machine that is busy with other things, try again.
	for range 3 {
		requests, calls = s.trace(t, clients)
		t.Logf("%.0f requests on %d connections, syscalls a request: %s", requests, len(clients), perRequest(calls, requests))
		if calls["futex"]/requests < 0.01 {
			break
		}
	}
	assert.InDelta(t, 1, calls["recvfrom"]/requests, 0.01, "reads")
	assert.InDelta(t, 1, calls["sendto"]/requests, 0.01, "writes")
	assert.LessOrEqual(t, (calls["epoll_pwait"]+calls["epoll_wait"])/requests, 0.3, "waits")
	assert.Positive(t, calls["epoll_pwait"]+calls["epoll_wait"])
	for _, name := range []string{"epoll_ctl", "futex", "read", "write", "clock_gettime", "gettimeofday"} {
		assert.Less(t, calls[name]/requests, 0.01, name)
	}
}

// trace counts the server's syscalls while the clients ping.
func (s server) trace(t testing.TB, clients []*client) (requests float64, calls map[string]float64) {
	table := filepath.Join(t.TempDir(), "strace")
	strace := exec.Command("strace", "-c", "-f", "-p", strconv.Itoa(s.pid), "-o", table)
	says, err := strace.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, strace.Start())
	said := bufio.NewReader(says)
	if line, err := said.ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
		_ = strace.Wait() // it has said what was wrong
		t.Skipf("SKIPPED: strace may not attach here: %s", strings.TrimSpace(line))
	}
	const enough = 20_000
	requests = float64(pingAll(t, clients, func(done int64) bool { return done < enough }))
	require.NoError(t, strace.Process.Signal(os.Interrupt))
	_, err = io.Copy(io.Discard, said)
	require.NoError(t, err)
	_ = strace.Wait() // its exit code is the signal's
	return requests, readStrace(t, table)
}

// readStrace parses the table of strace -c: calls by name.
func readStrace(t testing.TB, path string) map[string]float64 {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	calls := make(map[string]float64)
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line) // % time, seconds, usecs/call, calls, [errors], syscall
		if len(f) < 5 {
			continue
		}
		if n, err := strconv.ParseFloat(f[3], 64); err == nil {
			calls[f[len(f)-1]] = n
		}
	}
	delete(calls, "total")
	require.NotEmpty(t, calls, "%s", data)
	return calls
}

func perRequest(calls map[string]float64, requests float64) string {
	var b bytes.Buffer
	for _, name := range []string{"recvfrom", "sendto", "epoll_pwait", "epoll_ctl", "futex", "write", "clock_gettime"} {
		fmt.Fprintf(&b, "%s %.4f  ", name, calls[name]/requests)
	}
	return b.String()
}

const idleConnections = 15_000

// needDescriptors skips the test where a process may not have as many.
func needDescriptors(t testing.TB, n uint64) {
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	if limit.Max < n {
		t.Skipf("SKIPPED: %d descriptors are needed, %d allowed (ulimit -Hn)", n, limit.Max)
	}
}

// An idle connection: the resident memory of the whole process, after minus
// before, divided.
func TestEchoServerFiguresOfIdleConnections(t *testing.T) {
	needDescriptors(t, idleConnections+1000)
	s := startServer(t)
	warm := s.connect(t, 100)
	pingAll(t, warm, func(done int64) bool { return done < 10_000 })
	before := residentBytes(t, s.pid)
	idle := s.connect(t, idleConnections)
	after := residentBytes(t, s.pid)
	each := float64(after-before) / idleConnections
	t.Logf("%d idle connections: %.0f bytes of resident memory each (%d KiB before, %d KiB after)",
		idleConnections, each, before>>10, after>>10)
	assert.LessOrEqual(t, each, 400.0)
	for i := 0; i < len(idle); i += 100 {
		require.NoError(t, idle[i].ping(), "an idle connection is served at once")
	}
}

// residentBytes is VmRSS of proc(5).
func residentBytes(t testing.TB, pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			require.NoError(t, err)
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// BenchmarkAmongIdle is the server's CPU time a request of 100 connections,
// alone and among 15,000 idle ones: two servers, measured in turns.
func BenchmarkAmongIdle(b *testing.B) {
	needDescriptors(b, idleConnections+1000)
	alone, among := startServer(b), startServer(b)
	few, many := alone.connect(b, 100), among.connect(b, 100)
	among.connect(b, idleConnections)
	var cpuAlone, cpuAmong time.Duration
	var requestsAlone, requestsAmong int64
	const turn = 20_000 // requests
	window := func(s server, clients []*client, cpu *time.Duration, requests *int64) {
		before := cpuTime(b, s.pid)
		*requests += pingAll(b, clients, func(done int64) bool { return done < turn })
		*cpu += cpuTime(b, s.pid) - before
	}
	b.ResetTimer()
	for b.Loop() {
		window(alone, few, &cpuAlone, &requestsAlone)
		window(among, many, &cpuAmong, &requestsAmong)
	}
	b.StopTimer()
	nsAlone := float64(cpuAlone.Nanoseconds()) / float64(requestsAlone)
	nsAmong := float64(cpuAmong.Nanoseconds()) / float64(requestsAmong)
	b.ReportMetric(nsAlone, "cpu-ns/req-alone")
	b.ReportMetric(nsAmong, "cpu-ns/req-among-idle")
	b.ReportMetric(nsAmong/nsAlone, "ratio")
	b.ReportMetric(0, "ns/op")
}

// cpuTime is the CPU time of a process so far: the sum over its threads of
// proc(5)'s schedstat, in nanoseconds.
func cpuTime(t testing.TB, pid int) (sum time.Duration) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		ns, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		require.NoError(t, err)
		sum += time.Duration(ns)
	}
	return sum
}

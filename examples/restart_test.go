package examples_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Rolling restarts: one server process takes the place of another on the same
// address, under load, and nobody notices.

var httpServer = program{name: "http_server", network: "tcp"}

// startShared starts a server that shares its address.
func startShared(t *testing.T, addr string) *process {
	return httpServer.start(t, "-addr", addr, "-reuseport", "-loops", "1")
}

// replace starts a server in the place of another, which has to end in order,
// and long before its deadline: no client of these tests is slow.
func (s *process) replace(t *testing.T) *process {
	next := startShared(t, s.addr.String())
	begun := time.Now()
	s.stop(syscall.SIGTERM)
	assert.Less(t, time.Since(begun), 5*time.Second)
	assert.Empty(t, s.stderr.String())
	return next
}

func TestServersShareAnAddressWhenAsked(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		first := p.start(t, "-addr", "127.0.0.1:0", "-reuseport")
		p.start(t, "-addr", first.addr.String(), "-reuseport", "-loops", "2")
		assert.Equal(t, 1, p.run(t, "-addr", first.addr.String()).code, "both must ask for it")
	})
}

// strict is a client that keeps count.
type strict struct {
	asked, answered    atomic.Int64
	connections, ended atomic.Int64 // opened; ended by a Connection: close
	unaccepted         atomic.Int64 // reset before anything was answered: see reset
	stop               atomic.Bool

	mu     sync.Mutex
	losses []error
}

// reset says whether a connection that has answered nothing yet was reset. A
// handshake that is half-way when its listener closes ends so, unless
// net.ipv4.tcp_migrate_req is on (Documentation/networking/ip-sysctl.rst): no
// server has accepted that connection.
func (c *strict) reset(err error, batch int) bool {
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		return false
	}
	c.asked.Add(int64(-batch))
	c.unaccepted.Add(1)
	return true
}

func (c *strict) lost(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.losses = append(c.losses, fmt.Errorf(format, args...))
}

// run asks, one request after the other, on connections that it keeps as long
// as the server does; in batches of so many requests. Every request that was
// sent must be answered, unless the batch was cut by an answer that is the last.
func (c *strict) run(addr string, batch int) {
	ask := bytes.Repeat([]byte("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"), batch)
	for !c.stop.Load() {
		conn, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			if c.reset(err, 0) { // before the client has looked
				continue
			}
			c.lost("connect: %w", err)
			return
		}
		c.connections.Add(1)
		c.talk(conn, ask, batch)
		_ = conn.Close() // everything was read
	}
}

func (c *strict) talk(conn net.Conn, ask []byte, batch int) {
	_ = conn.SetDeadline(time.Now().Add(2 * patience)) // an open socket takes it
	in := bufio.NewReader(conn)
	for first := true; !c.stop.Load(); first = false {
		c.asked.Add(int64(batch))
		if _, err := conn.Write(ask); err != nil {
			if first && c.reset(err, batch) {
				return
			}
			c.lost("write, first %v: %w", first, err)
			return
		}
		for i := range batch {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				if first && i == 0 && c.reset(err, batch) {
					return
				}
				c.lost("read, first %v: %w", first, err)
				return
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 200 || string(body) != "Hello, World!\n" {
				c.lost("answer %d %q: %w", resp.StatusCode, body, err)
				return
			}
			c.answered.Add(1)
			if resp.Close {
				c.ended.Add(1)
				return
			}
		}
	}
}

func TestRollingRestartLosesNoRequest(t *testing.T) {
	for _, batch := range []int{1, 8} {
		t.Run(fmt.Sprint(batch, " at a time"), func(t *testing.T) {
			s := startShared(t, "127.0.0.1:0")
			addr := s.addr.String()
			c := new(strict)
			var clients sync.WaitGroup
			for range 50 {
				clients.Go(func() { c.run(addr, batch) })
			}
			const restarts = 6
			for range restarts {
				answered(t, c, c.answered.Load()+2000)
				s = s.replace(t)
			}
			answered(t, c, c.answered.Load()+2000)
			c.stop.Store(true)
			clients.Wait()
			t.Logf("%d restarts: %d requests sent, %d answered, on %d connections, of which the servers have ended %d; %d others were reset, not accepted",
				restarts, c.asked.Load(), c.answered.Load(), c.connections.Load(), c.ended.Load(), c.unaccepted.Load())
			assert.Empty(t, c.losses)
			assert.LessOrEqual(t, c.unaccepted.Load(), int64(restarts), "one half-way handshake each, at most")
			assert.Equal(t, c.asked.Load(), c.answered.Load())
			assert.GreaterOrEqual(t, c.ended.Load(), int64(restarts), "connections were open")
		})
	}
}

// answered waits until the client has had so many answers.
func answered(t *testing.T, c *strict, answers int64) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(patience); c.answered.Load() < answers; <-tick.C {
		require.True(t, time.Now().Before(until), "%d answers of %d", c.answered.Load(), answers)
	}
}

var socketErrors = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)

func TestWrkDoesNotNoticeARollingRestart(t *testing.T) {
	wrk := tool(t, "wrk", "wrk")
	s := startShared(t, "127.0.0.1:0")
	var out bytes.Buffer
	cmd := exec.Command(wrk, "-c", "50", "-t", "1", "-d", "4s", "http://"+s.addr.String()+"/hello")
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	restarts := 0
	pace := time.NewTicker(400 * time.Millisecond)
	defer pace.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			require.NoError(t, err, out.String())
			running = false
		case <-pace.C:
			s = s.replace(t)
			restarts++
		}
	}
	t.Logf("%d restarts\n%s", restarts, out.String())
	assert.GreaterOrEqual(t, restarts, 3)
	if found := socketErrors.FindStringSubmatch(out.String()); found != nil {
		// As in reset: wrk cannot tell those that nobody has accepted.
		var n [4]int
		for i := range n {
			var err error
			n[i], err = strconv.Atoi(found[1+i])
			require.NoError(t, err)
		}
		assert.Zero(t, n[0]+n[3], "connect and timeout")
		assert.LessOrEqual(t, n[1]+n[2], restarts, "read and write")
	}
	assert.NotContains(t, out.String(), "Non-2xx")
	assert.Regexp(t, regexp.MustCompile(`\d{3,} requests in`), out.String())
}

// A request of which the first half has come when the server is told to end is
// answered, and so is one that comes right afterwards.
func TestHTTPServerAnswersWhatIsUnderWay(t *testing.T) {
	s := startShared(t, "127.0.0.1:0")
	half, idle := s.dial(), s.dial()
	for _, conn := range []net.Conn{half, idle} {
		_, err := io.WriteString(conn, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		require.NoError(t, err)
		assert.False(t, resp.Close)
	}
	_, err := io.WriteString(half, "GET /hello HTTP/1.1\r\n")
	require.NoError(t, err)
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGTERM))
	for refused := false; !refused; { // the shutdown has begun: the listener is closed, or about to
		conn, err := net.DialTimeout("tcp", s.addr.String(), 50*time.Millisecond)
		if refused = err != nil; !refused {
			_ = conn.Close() // nothing was sent
		}
	}
	for _, c := range []struct {
		conn net.Conn
		rest string
	}{{idle, "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"}, {half, "Host: a\r\n\r\n"}} {
		_, err := io.WriteString(c.conn, c.rest)
		require.NoError(t, err)
		all, err := io.ReadAll(c.conn)
		require.NoError(t, err)
		assert.Contains(t, string(all), "Connection: close\r\n")
		assert.Contains(t, string(all), "Hello, World!\n")
		require.NoError(t, c.conn.Close())
	}
	require.NoError(t, <-s.ended)
	s.ended = nil
}

// A request that waits for its answer at the backend when the proxy is replaced
// gets it, through the proxy that has passed it on; a client that waits for
// nothing is told to come back.
func TestProxyServerPassesOnTheAnswerItWaitsFor(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer backend.Close()
	proxy := program{name: "proxy_server", network: "tcp", needs: []string{"-backend", backend.Addr().String()}}
	old := proxy.start(t, "-addr", "127.0.0.1:0", "-reuseport")
	session := func(s *process) (client, server net.Conn) {
		client = s.dial()
		_, err := io.WriteString(client, "question")
		require.NoError(t, err)
		server, err = backend.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { _ = server.Close() }) // the client's end is what counts
		require.NoError(t, server.SetDeadline(time.Now().Add(patience)))
		_, err = io.ReadFull(server, make([]byte, len("question")))
		require.NoError(t, err)
		return client, server
	}
	answer := func(client, server net.Conn) {
		_, err := io.WriteString(server, "answer")
		require.NoError(t, err)
		got := make([]byte, len("answer"))
		_, err = io.ReadFull(client, got)
		require.NoError(t, err)
		assert.Equal(t, "answer", string(got))
	}
	waiting, asked := session(old)
	idle, server := session(old)
	answer(idle, server)
	next := proxy.start(t, "-addr", old.addr.String(), "-reuseport")
	require.NoError(t, old.cmd.Process.Signal(syscall.SIGTERM))
	rest, err := io.ReadAll(idle)
	require.NoError(t, err)
	assert.Empty(t, rest)
	answer(waiting, asked) // long after the signal
	rest, err = io.ReadAll(waiting)
	require.NoError(t, err)
	assert.Empty(t, rest)
	require.NoError(t, <-old.ended)
	old.ended = nil
	assert.Empty(t, old.stderr.String())
	answer(session(next))
}

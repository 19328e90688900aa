package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strings"
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
const patience = 10 * time.Second

// asServer makes the test's own executable behave as the server: for the tests
// of what main does.
const asServer = "HTTP_SERVER_TEST_MAIN"

// TestMain runs the tests and finds the goroutines that they leave behind.
func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
		return
	}
	if os.Getenv(asCrowd) != "" {
		if err := crowdMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	before := runtime.NumGoroutine()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzing machinery has goroutines of its own
	}
	for late := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(late) {
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after them:\n", before, runtime.NumGoroutine())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			os.Exit(1)
		}
	}
	os.Exit(code)
}

// service is the server, running on a loop of its own.
type service struct {
	t     testing.TB
	loop  *stepio.Loop
	group *stepio.Group
	addr  string
	conns []*conn // every one that was accepted; the loop's

	server *server // the loop's
}

// quick are limits that no test runs into by accident, and that end a test that
// has failed before its own patience.
var quick = func() limits {
	l := defaultLimits
	l.linger = time.Second
	return l
}()

// serve runs the server until the test ends. Whatever it reports fails the test,
// and so does a task that is left when all clients are gone.
func serve(t testing.TB, site *site, limits limits) *service {
	group, err := stepio.NewGroup(1, stepio.WithChecks(), stepio.WithReport(func(task *sm.Task, err error) {
		t.Errorf("not expected: report of %v from %s", err, task.Chain())
	}))
	require.NoError(t, err)
	s := &service{t: t, group: group, loop: group.Next()}
	t.Cleanup(func() {
		s.awaitTasks(1)
		group.Stop()
		require.NoError(t, group.Join())
	})
	s.onLoop(func() {
		ln, err := stepio.ListenTCP(s.loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
		require.NoError(t, err)
		require.NoError(t, limitUnsent(ln))
		s.addr = ln.Addr().String()
		s.server = newServer(site, limits)
		s.loop.Spawn(stepio.NewServe(ln, func(sock *stepio.TCPConn) sm.Frame {
			c := &conn{sock: sock, server: s.server}
			s.conns = append(s.conns, c)
			return c
		}))
	})
	return s
}

// serveBuiltIn is serve, with what is built in.
func serveBuiltIn(t testing.TB) *service {
	site, err := loadSite("")
	require.NoError(t, err)
	return serve(t, site, quick)
}

// onLoop runs fn on the loop and waits for it.
func (s *service) onLoop(fn func()) {
	err := s.group.Each(func(int, *stepio.Loop) error {
		fn()
		return nil
	})
	require.NoError(s.t, err)
}

// settle returns once the server has seen everything that had arrived before:
// between two calls, the loop asks the poller, and runs who is ready.
func (s *service) settle() {
	for range 3 {
		s.onLoop(func() {})
	}
}

// awaitTasks waits until n tasks are left, the listener's among them.
func (s *service) awaitTasks(n int) {
	s.await(func() bool { return s.loop.Tasks() == n }, "%d tasks left", n)
}

// await waits until done, asked on the loop, says so.
func (s *service) await(done func() bool, format string, args ...any) {
	s.t.Helper()
	for late := time.Now().Add(patience); ; runtime.Gosched() {
		var ok bool
		var dump bytes.Buffer
		s.onLoop(func() {
			if ok = done(); !ok {
				_ = s.loop.Dump(&dump) // a bytes.Buffer takes everything
			}
		})
		if ok {
			return
		}
		if time.Now().After(late) {
			s.t.Errorf("in vain: "+format+"\n%s", append(args, &dump)...)
			return
		}
	}
}

// dial connects a client that gives up after the test's patience.
func (s *service) dial() *net.TCPConn {
	c, err := net.Dial("tcp", s.addr)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = c.Close() }) // many tests close it themselves
	require.NoError(s.t, c.SetDeadline(time.Now().Add(patience)))
	return c.(*net.TCPConn)
}

// tell sends a text.
func tell(t testing.TB, c net.Conn, text string) {
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
}

// hear reads until the server closes. It must do so in good order.
func hear(t testing.TB, c net.Conn) string {
	all, err := io.ReadAll(c)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return undated(string(all))
}

// talk sends a text and returns everything that the server sends before it
// closes, of its own accord.
func (s *service) talk(text string) string {
	c := s.dial()
	tell(s.t, c, text)
	return hear(s.t, c)
}

// talkOut is talk for a client that has nothing more to send, and says so.
func (s *service) talkOut(text string) string {
	c := s.dial()
	tell(s.t, c, text)
	require.NoError(s.t, c.CloseWrite())
	return hear(s.t, c)
}

var dateField = regexp.MustCompile(`Date: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT\r\n`)

// undated is responses without their dates, of which there must be one each.
func undated(text string) string { return dateField.ReplaceAllString(text, "Date: now\r\n") }

// response is what a test looks at.
type response struct {
	status int
	header http.Header
	closes bool // Connection: close, which ReadResponse takes out of the header
	body   string
}

// read takes one response to a request with the given method off r.
func read(t testing.TB, r *bufio.Reader, method string) response {
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	assert.Len(t, resp.Header["Date"], 1)
	return response{resp.StatusCode, resp.Header, resp.Close, string(body)}
}

// parse is the responses that text consists of. The methods are those of the
// requests; those that are not given are GET.
func parse(t testing.TB, text string, methods ...string) (all []response) {
	r := bufio.NewReader(strings.NewReader(text))
	for {
		if _, err := r.Peek(1); err == io.EOF {
			return all
		}
		method := http.MethodGet
		if len(all) < len(methods) {
			method = methods[len(all)]
		}
		all = append(all, read(t, r, method))
	}
}

// statuses is the status of every response.
func statuses(all []response) []int {
	list := []int{}
	for _, r := range all {
		list = append(list, r.status)
	}
	return list
}

// command is the server as a process of its own, for at most as long as ctx.
func command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asServer+"=1")
	return cmd
}

// listening starts the server and returns the address that it listens on.
func listening(t *testing.T, cmd *exec.Cmd) (addr string) {
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, ok, line)
	return addr
}

func TestMainServesADirectoryUntilItIsStopped(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/note.txt", []byte("a note"), 0o600))
	cmd := command(t.Context(), t, "-addr", "127.0.0.1:0", "-loops", "2", "-static", dir)
	addr := listening(t, cmd)
	resp, err := http.Get("http://" + addr + "/note.txt")
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, "a note", string(body))

	second := command(t.Context(), t, "-addr", addr)
	out, err := second.CombinedOutput()
	require.Error(t, err)
	assert.Equal(t, 1, second.ProcessState.ExitCode(), "the address is taken")
	assert.Equal(t, 1, strings.Count(string(out), "\n"), "one clear line, not %q", out)

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	assert.NoError(t, cmd.Wait())
}

func TestMainRefusesADirectoryThatIsNotThere(t *testing.T) {
	cmd := command(t.Context(), t, "-addr", "127.0.0.1:0", "-static", t.TempDir()+"/missing")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Equal(t, 1, cmd.ProcessState.ExitCode())
	assert.Contains(t, string(out), "missing")
	assert.Equal(t, 1, strings.Count(string(out), "\n"), "one clear line, not %q", out)
}

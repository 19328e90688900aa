// Package examples_test runs the example servers as what they are: programs.
package examples_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/examples/internal/built"
	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

// patience bounds everything a test waits for.
const patience = 20 * time.Second

// program is an example server. The tests of the contract run for every one, so
// a new one is a line here.
type program struct {
	name    string
	network string   // that it serves
	needs   []string // arguments that it can't do without
	workers bool     // has -workers
}

var programs = []program{
	{name: "tcp_echo_server", network: "tcp", workers: true},
	{name: "tcp_echo_server_et", network: "tcp", workers: true},
	{name: "udp_echo_server", network: "udp", workers: true},
	{name: "udp_echo_server_et", network: "udp", workers: true},
	{name: "proxy_server", network: "tcp", needs: []string{"-backend", "127.0.0.1:1"}},
	{name: "http_server", network: "tcp"},
}

// binaries is the folder of the built programs.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "stepio-examples-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // best effort, in the system's temporary folder
	binaries = dir
	return m.Run()
}

// needPrograms builds every program once, with the race detector when the tests
// have it. Every test that runs one calls it first: what is looked at before
// m.Run, the go command does not see, and so would answer from its cache
// although a program has changed.
func needPrograms(t *testing.T) {
	t.Helper()
	require.NoError(t, build())
}

var build = sync.OnceValue(func() error {
	var packages []string
	for _, p := range programs {
		packages = append(packages, "./"+p.name)
	}
	return built.Programs(binaries, raceDetector, packages...)
})

// command is the program with its arguments, and those that it needs.
func (p program) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(append([]string(nil), p.needs...), args...)
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, p.name), args...)
	if raceDetector { // it sleeps for a second before it exits, unless it is told not to
		cmd.Env = append(cmd.Environ(), "GORACE=atexit_sleep_ms=0")
	}
	return cmd
}

// outcome is how a program ended by itself.
type outcome struct {
	code           int
	stdout, stderr string
}

// run waits until the program ends by itself.
func (p program) run(t *testing.T, args ...string) outcome {
	t.Helper()
	needPrograms(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return finish(t, p.command(ctx, args...))
}

// finish runs a command that ends by itself.
func finish(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); !exited {
		require.NoError(t, err)
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// process is a program that serves.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	addr   netip.AddrPort // as it says
	stdout *lines
	stderr *lines
	ended  chan error
}

// start runs the program until it says that it listens. Unless the test stops
// it before, it is stopped by SIGTERM when the test ends, which must succeed.
func (p program) start(t *testing.T, args ...string) *process {
	t.Helper()
	needPrograms(t)
	s := &process{t: t, cmd: p.command(context.Background(), args...), stdout: newLines(), stderr: newLines()}
	s.cmd.Stdout, s.cmd.Stderr = s.stdout, s.stderr
	require.NoError(t, s.cmd.Start())
	s.ended = make(chan error, 1)
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() { s.stop(syscall.SIGTERM) })

	line, ok := s.stdout.first(patience)
	require.True(t, ok, "%v does not say that it listens: %q, %q", s.cmd, s.stdout, s.stderr)
	addr, found := strings.CutPrefix(line, "listening on ")
	require.True(t, found, "the line is %q", line)
	var err error
	s.addr, err = netip.ParseAddrPort(addr)
	require.NoError(t, err)
	require.NotZero(t, s.addr.Port())
	return s
}

// stop ends the process by a signal, to which it must answer with exit code 0.
func (s *process) stop(sig os.Signal) {
	s.t.Helper()
	if s.ended == nil {
		return
	}
	require.NoError(s.t, s.cmd.Process.Signal(sig))
	select {
	case err := <-s.ended:
		assert.NoError(s.t, err, "%v: %s", s.cmd, s.stderr)
	case <-time.After(patience):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines' stacks
		<-s.ended
		s.t.Errorf("%v does not end by %v:\n%s", s.cmd, sig, s.stderr)
	}
	s.ended = nil
	assert.Equal(s.t, 1, strings.Count(s.stdout.String(), "\n"), "stdout is %q", s.stdout)
}

// quiet asserts that nothing was said on standard error, once the process has ended.
func (s *process) quiet() {
	s.t.Helper()
	s.stop(syscall.SIGTERM)
	assert.Empty(s.t, s.stderr.String())
}

// on is the address of the process on a host: it may listen on all.
func (s *process) on(host string) string {
	return net.JoinHostPort(host, fmt.Sprint(s.addr.Port()))
}

// dial connects to the process, over IPv4.
func (s *process) dial() *net.TCPConn {
	s.t.Helper()
	return dialTCP(s.t, s.on("127.0.0.1"))
}

func dialTCP(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // most tests have closed it
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn.(*net.TCPConn)
}

// lines is what a process has written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	line chan string // the first
}

func newLines() *lines { return &lines{line: make(chan string, 1)} }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := bytes.IndexByte(l.text.Bytes(), '\n')
	l.text.Write(p)
	if i := bytes.IndexByte(l.text.Bytes(), '\n'); before < 0 && i >= 0 {
		l.line <- string(l.text.Bytes()[:i])
	}
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// first waits for the first line.
func (l *lines) first(within time.Duration) (string, bool) {
	select {
	case line := <-l.line:
		return line, true
	case <-time.After(within):
		return "", false
	}
}

var _ io.Writer = (*lines)(nil)

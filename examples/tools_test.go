package examples_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The example servers and the clients that people have at hand.

// tool finds a program, or skips the test and says how to install it.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED: %s is not installed: apt-get install %s", name, debianPackage)
	}
	return path
}

// outside runs a command of the system, with that input, until it ends.
func outside(t *testing.T, input []byte, name string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(input)
	got := finish(t, cmd)
	require.NoError(t, ctx.Err(), "%v did not end: %s", cmd, got.stderr)
	return got
}

func TestNetcatGetsItsInputBack(t *testing.T) {
	nc := tool(t, "nc", "netcat-openbsd")
	for _, network := range []string{"tcp", "udp"} {
		echoServers(t, network, func(t *testing.T, s *process) {
			port := fmt.Sprint(s.addr.Port())
			for _, host := range hosts() {
				if network == "tcp" { // -N: half-closes at the end of its input
					text := bytes.Repeat([]byte("the quick brown fox\n"), 50_000)
					got := outside(t, text, nc, "-N", host, port)
					assert.Zero(t, got.code, got.stderr)
					assert.True(t, string(text) == got.stdout, "%d bytes came back as %d", len(text), len(got.stdout))
					continue
				}
				got := outside(t, []byte("hello\n"), nc, "-u", "-W", "1", host, port) // ends by the first answer
				assert.Equal(t, "hello\n", got.stdout, got.stderr)
			}
			s.quiet()
		})
	}
}

// redis starts a real Redis, and returns its address.
func redis(t *testing.T) string {
	path := tool(t, "redis-server", "redis-server")
	for range 5 { // the port is free now, and may be taken by then
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addr := ln.Addr().String()
		require.NoError(t, ln.Close())
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "no")
		stdout := newLines()
		cmd.Stdout, cmd.Stderr = stdout, stdout
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for until := time.Now().Add(patience); ; <-tick.C {
			if conn, err := net.Dial("tcp", addr); err == nil {
				_ = conn.Close() // nothing was sent
				t.Cleanup(func() {
					assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
					<-ended // however: it is Redis
				})
				return addr
			}
			if len(ended) > 0 {
				break
			}
			require.True(t, time.Now().Before(until), "redis-server does not listen:\n%s", stdout)
		}
		t.Logf("redis-server has ended:\n%s", stdout)
	}
	t.Fatal("redis-server does not start")
	return ""
}

func proxyOf(t *testing.T, backend string, args ...string) *process {
	p := program{name: "proxy_server", network: "tcp", needs: []string{"-backend", backend}}
	return p.start(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
}

var requestsPerSecond = regexp.MustCompile(`(SET|GET|LPUSH): [0-9.]+ requests per second`)

func TestRedisBenchmarkRunsThroughTheProxy(t *testing.T) {
	benchmark := tool(t, "redis-benchmark", "redis-tools")
	addr := redis(t)
	for _, args := range [][]string{
		{"-c", "50"},                           // ping-pong
		{"-c", "20", "-P", "16"},               // pipelined
		{"-c", "5", "-d", "100000", "-P", "4"}, // large values
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			s := proxyOf(t, addr, "-loops", "2")
			args := append(args, "-h", "127.0.0.1", "-p", fmt.Sprint(s.addr.Port()), "-n", "1000", "-t", "set,get,lpush", "-q")
			got := outside(t, nil, benchmark, args...)
			assert.Zero(t, got.code, got.stderr)
			assert.Len(t, requestsPerSecond.FindAllString(got.stdout, -1), 3, got.stdout)
			s.quiet()
		})
	}
}

func TestNetcatAsksRedisThroughTheProxy(t *testing.T) {
	nc := tool(t, "nc", "netcat-openbsd")
	s := proxyOf(t, redis(t))
	got := outside(t, []byte("SET key value\r\nGET key\r\nQUIT\r\n"), nc, "-N", "127.0.0.1", fmt.Sprint(s.addr.Port()))
	assert.Equal(t, "+OK\r\n$5\r\nvalue\r\n+OK\r\n", got.stdout, got.stderr)
	s.quiet()
}

func TestProxyServerLogsOneLineForABackendThatRefuses(t *testing.T) {
	s := proxyOf(t, "127.0.0.1:1", "-loops", "2")
	for range 3 {
		_, err := io.ReadAll(s.dial())
		require.NoError(t, err)
	}
	s.stop(syscall.SIGTERM)
	text := s.stderr.String()
	assert.Equal(t, 3, strings.Count(text, "\n"), text)
	assert.Equal(t, 3, strings.Count(text, "connection refused"), text)
}

package contend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serveVariable has this test's binary be the server of a process: its value is
// "NAME/SERVICE".
const serveVariable = "STEPIO_BENCH_SERVE"

func TestMain(m *testing.M) {
	if what := os.Getenv(serveVariable); what != "" {
		name, service, _ := strings.Cut(what, "/")
		c, _ := Find(name)
		if err := Serve(c.Starts[Service(service)], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if err := Cleanup(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// eachOwn runs test against every server of the library and of the limit that
// has the service, each in a process of its own, as the benchmark has them.
func eachOwn(t *testing.T, s Service, test func(t *testing.T, addr string)) {
	for _, c := range slices.Concat(stepioContenders(), limitContenders()) {
		var args []string
		var err error
		if c.Program != nil {
			args, err = c.Program(s)
		}
		if err == nil && args == nil && c.Starts[s] == nil {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			if errors.Is(err, exec.ErrNotFound) {
				t.Skipf("NOT TESTED: %v", err)
			}
			require.NoError(t, err)
			test(t, startProcess(t, c, s, args))
		})
	}
}

// startProcess starts a server and returns its address. When the test ends, it
// must end as the benchmark ends it, with exit code 0.
func startProcess(t *testing.T, c Contender, s Service, args []string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience) // then it is killed, and Wait says so
	t.Cleanup(cancel)
	foreign := args != nil
	if !foreign {
		args = []string{os.Args[0]}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if !foreign {
		cmd.Env = append(os.Environ(), serveVariable+"="+c.Name+"/"+string(s))
	}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	t.Cleanup(func() {
		if foreign && c.Mute {
			assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		} else {
			assert.NoError(t, in.Close())
		}
		rest, err := io.ReadAll(lines)
		assert.NoError(t, err)
		assert.Empty(t, string(rest))
		assert.NoError(t, cmd.Wait(), "a clean end")
	})
	line, err := lines.ReadString('\n')
	require.NoError(t, err)
	addr, ok := Listening(line)
	require.True(t, ok, "the first line is %q", line)

	if foreign && c.Mute {
		return addr
	}
	for range 2 {
		_, err = io.WriteString(in, "heap\n")
		require.NoError(t, err)
		line, err = lines.ReadString('\n')
		require.NoError(t, err)
		if foreign {
			assert.Equal(t, "heap -1\n", line, "C has no Go heap")
			continue
		}
		var bytes int64
		_, err = fmt.Sscanf(line, "heap %d\n", &bytes)
		require.NoError(t, err, line)
		assert.Greater(t, bytes, int64(64<<10), "the loop's buffer alone")
	}
	return addr
}

// stuff writes what it can of data until the connection has taken nothing for a
// while: then every buffer on the way is full, and so is the server's socket. It
// returns what was not written.
func stuff(t *testing.T, c *net.TCPConn, data []byte) []byte {
	t.Helper()
	for len(data) > 0 {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(150*time.Millisecond)))
		n, err := c.Write(data[:min(len(data), 100_003)])
		data = data[n:]
		if errors.Is(err, os.ErrDeadlineExceeded) && n == 0 {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			require.NoError(t, err)
		}
	}
	require.NoError(t, c.SetWriteDeadline(time.Now().Add(patience)))
	return data
}

// much is more than the buffers between a client and a server hold.
var much = sync.OnceValue(func() []byte { return bytes.Repeat(noise(11, 1<<20+17), 48) })

func TestOwnEchoReturnsEveryByte(t *testing.T) {
	eachOwn(t, Echo, func(t *testing.T, addr string) {
		var group sync.WaitGroup
		for i := range 6 {
			c := dial(t, addr, i%2 == 1)
			data := noise(uint64(i), 1<<20)
			group.Go(func() { assert.NoError(t, inPieces(c, data, 1, 63, 64, 65, 4095, 4097, 70001)) })
			group.Go(func() { assert.NoError(t, expect(c, data)) })
		}
		group.Wait()
	})
}

func TestOwnEchoGoesOnAfterAFullSocket(t *testing.T) {
	eachOwn(t, Echo, func(t *testing.T, addr string) {
		quick := dial(t, addr, false)
		slow := dial(t, addr, true)
		data := much()
		left := stuff(t, slow, data)
		require.NotEmpty(t, left, "the server must not take without end what nobody reads")
		require.NoError(t, inPieces(quick, []byte("and the others?"), 3))
		require.NoError(t, expect(quick, []byte("and the others?")))

		var group sync.WaitGroup
		group.Go(func() {
			assert.NoError(t, inPieces(slow, left, len(left)))
			assert.NoError(t, slow.CloseWrite())
		})
		require.NoError(t, expect(slow, data))
		group.Wait()
		_, err := slow.Read(make([]byte, 1))
		assert.Equal(t, io.EOF, err, "the end of what was sent is the end of what comes back")
	})
}

func TestOwnEchoSurvivesResets(t *testing.T) {
	eachOwn(t, Echo, func(t *testing.T, addr string) {
		steady := dial(t, addr, false)
		stuck, err := net.DialTimeout("tcp", addr, patience)
		require.NoError(t, err)
		require.NotEmpty(t, stuff(t, stuck.(*net.TCPConn), much()))
		for i := range 50 {
			if i == 25 { // while the server waits to send
				require.NoError(t, stuck.(*net.TCPConn).SetLinger(0))
				require.NoError(t, stuck.Close())
			}
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

func TestOwnEchoUDPReturnsEachDatagram(t *testing.T) {
	eachOwn(t, EchoUDP, func(t *testing.T, addr string) {
		for socket := range 2 {
			c, err := net.Dial("udp", addr)
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
			got := make([]byte, 1<<16)
			for _, sizes := range [][]int{{0}, {1}, {64}, {1472}, {65507}, {64, 16, 1000, 0, 64, 1}} {
				for i, size := range slices.Concat(slices.Repeat([][]int{sizes}, 20)...) {
					want := noise(uint64(socket), size+i%2)[:size]
					_, err := c.Write(want)
					require.NoError(t, err)
					if size > 2000 {
						n, err := c.Read(got)
						require.NoError(t, err)
						require.Equal(t, want, got[:n])
					}
				}
				if sizes[0] > 2000 {
					continue // too many of those at once would not fit into the socket
				}
				for i, size := range slices.Concat(slices.Repeat([][]int{sizes}, 20)...) {
					n, err := c.Read(got)
					require.NoError(t, err)
					require.Equal(t, noise(uint64(socket), size+i%2)[:size], got[:n])
				}
			}
		}
	})
}

func TestOwnHTTPAnswersPipelinedRequests(t *testing.T) {
	eachOwn(t, HTTP, func(t *testing.T, addr string) {
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

func TestOwnFanoutReachesEverySubscriber(t *testing.T) {
	eachOwn(t, Fanout, func(t *testing.T, addr string) {
		messages := noise(3, 100*FanoutSize)
		var group sync.WaitGroup
		for range 20 {
			c := dial(t, addr, false)
			join(t, c, "S")
			require.NoError(t, inPieces(c, []byte("nobody listens"), 3))
			group.Go(func() { assert.NoError(t, expect(c, messages)) })
		}
		for range 5 {
			reset(t, addr, []byte("S"))
		}
		reset(t, addr, []byte("X")) // neither
		publisher := dial(t, addr, false)
		join(t, publisher, "P")
		require.NoError(t, inPieces(publisher, messages, 1, 63, 64, 65, 200))
		group.Wait()
	})
}

func TestOwnFanoutKeepsThePlaceOfASlowSubscriber(t *testing.T) {
	eachOwn(t, Fanout, func(t *testing.T, addr string) {
		messages := much()
		messages = messages[:len(messages)-len(messages)%FanoutSize]
		quick, slow := dial(t, addr, false), dial(t, addr, true)
		gone, err := net.DialTimeout("tcp", addr, patience)
		require.NoError(t, err)
		for _, c := range []net.Conn{quick, slow, gone} {
			join(t, c, "S")
		}
		publisher := dial(t, addr, false)
		join(t, publisher, "P")
		var group sync.WaitGroup
		group.Go(func() { assert.NoError(t, expect(quick, messages)) })

		left := stuff(t, publisher, messages)
		require.NotEmpty(t, left, "the server must not keep without end what nobody reads")
		group.Go(func() { assert.NoError(t, expect(slow, messages)) })
		left = stuff(t, publisher, left)
		require.NotEmpty(t, left, "one subscriber still does not read")
		require.NoError(t, gone.(*net.TCPConn).SetLinger(0))
		require.NoError(t, gone.Close())
		require.NoError(t, inPieces(publisher, left, 100_001, 33))
		group.Wait()
	})
}

func TestOwnFanoutDoesNotMixPublishers(t *testing.T) {
	eachOwn(t, Fanout, func(t *testing.T, addr string) {
		const publishers, each = 3, 200
		subscriber := dial(t, addr, false)
		join(t, subscriber, "S")
		var group sync.WaitGroup
		for p := range publishers {
			c := dial(t, addr, false)
			join(t, c, "P")
			var messages []byte
			for i := range each {
				messages = fmt.Appendf(messages, "%d %-*d", p, FanoutSize-2, i)
			}
			group.Go(func() { assert.NoError(t, inPieces(c, messages, 1, 100, 7, 64, 1000)) })
		}
		message := make([]byte, FanoutSize)
		next := [publishers]int{}
		for range publishers * each {
			_, err := io.ReadFull(subscriber, message)
			require.NoError(t, err)
			var p, i int
			_, err = fmt.Sscanf(string(message), "%d %d", &p, &i)
			require.NoError(t, err)
			require.Equal(t, next[p], i, "publisher %d", p)
			next[p]++
		}
		group.Wait()
	})
}

func TestProgramWithoutACompilerSaysSo(t *testing.T) {
	require.NoError(t, Cleanup())
	t.Setenv("PATH", t.TempDir())
	for _, c := range limitContenders() {
		service := EchoUDP
		if c.Name == "C edge" {
			service = Echo
		}
		args, err := c.Program(service)
		assert.ErrorIs(t, err, exec.ErrNotFound, c.Name)
		assert.Nil(t, args)
		args, err = c.Program(HTTP)
		assert.NoError(t, err, "it does not have that service anyway")
		assert.Nil(t, args)
	}
	require.NoError(t, Cleanup())
}

func TestCleanupRemovesWhatWasBuilt(t *testing.T) {
	build := func(path string) error { return os.WriteFile(path, []byte("program"), 0o700) }
	path, err := builtOnce("test", build)
	require.NoError(t, err)
	again, err := builtOnce("test", func(string) error { return errors.New("built twice") })
	require.NoError(t, err)
	assert.Equal(t, path, again)
	require.FileExists(t, path)
	require.NoError(t, Cleanup())
	assert.NoDirExists(t, filepath.Dir(path))
	require.NoError(t, Cleanup(), "twice is once")
}

func TestListeningReadsBothForms(t *testing.T) {
	for line, want := range map[string]string{
		"listening 127.0.0.1:80\n":    "127.0.0.1:80",
		"listening on 127.0.0.1:80\n": "127.0.0.1:80",
	} {
		addr, ok := Listening(line)
		assert.True(t, ok, line)
		assert.Equal(t, want, addr)
	}
	_, ok := Listening("panic: no port\n")
	assert.False(t, ok)
}

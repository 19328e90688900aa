package examples_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What every example server promises: see examples/internal/cli.

func each(t *testing.T, test func(t *testing.T, p program)) {
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) { test(t, p) })
	}
}

func TestServerTellsItsUsage(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, flag := range []string{"-h", "-help"} {
			got := p.run(t, flag)
			assert.Zero(t, got.code)
			text := got.stdout + got.stderr
			assert.Contains(t, text, p.name+": ")
			assert.Contains(t, text, "usage:")
			for _, name := range append([]string{"-addr", "-loops"}, p.flags()...) {
				assert.Contains(t, text, "  "+name+" ")
			}
		}
	})
}

// flags are those that not every program has.
func (p program) flags() (names []string) {
	if p.workers {
		names = append(names, "-workers")
	}
	if len(p.needs) > 0 {
		names = append(names, p.needs[0])
	}
	return names
}

func TestServerRefusesABadFlag(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		bad := [][]string{
			{"-nonsense"},
			{"extra"},
			{"-loops", "-1"},
			{"-loops", "two"},
			{"-loops", "1000000"},
			{"-loops"},
			{"-addr", "nonsense"},
			{"-addr", ":99999"},
			{"-addr", ""},
		}
		if p.workers {
			bad = append(bad, []string{"-workers", "-1"}, []string{"-workers", "two"}, []string{"-workers", "1000000"})
		}
		for _, args := range bad {
			got := p.run(t, args...)
			refused(t, got, args)
		}
		if len(p.needs) > 0 {
			without := p
			without.needs = nil
			refused(t, without.run(t, "-addr", "127.0.0.1:0"), p.needs[:1])
			refused(t, without.run(t, p.needs[0], "nonsense"), p.needs[:1])
		}
	})
}

func refused(t *testing.T, got outcome, args []string) {
	t.Helper()
	assert.Equal(t, 2, got.code, "%q: %s", args, got.stderr)
	assert.Empty(t, got.stdout, "%q", args)
	assert.Contains(t, got.stderr, "usage:", "%q", args)
	assert.Contains(t, strings.SplitN(got.stderr, "\n", 2)[0], strings.TrimPrefix(args[0], "-"), "the first line says what is wrong")
}

func TestServerRefusesATakenAddress(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, loops := range []string{"1", "2"} {
			first := p.start(t, "-addr", "127.0.0.1:0", "-loops", loops)
			for _, more := range []string{"1", "2"} {
				got := p.run(t, "-addr", first.addr.String(), "-loops", more)
				assert.Equal(t, 1, got.code)
				assert.Empty(t, got.stdout)
				assert.Equal(t, 1, strings.Count(got.stderr, "\n"), "one line: %q", got.stderr)
				assert.Contains(t, got.stderr, p.name+": listen "+p.network+" "+first.addr.String())
				assert.Contains(t, got.stderr, "address already in use")
			}
			first.quiet()
		}
	})
}

func TestServerRefusesAnAddressOfAnotherMachine(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		got := p.run(t, "-addr", "192.0.2.1:0") // TEST-NET-1 of RFC 5737
		assert.Equal(t, 1, got.code)
		assert.Empty(t, got.stdout)
		assert.Equal(t, 1, strings.Count(got.stderr, "\n"), "one line: %q", got.stderr)
		assert.Contains(t, got.stderr, p.name+": ")
	})
}

func TestServerStopsBySignals(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
			for _, loops := range []string{"0", "2"} {
				s := p.start(t, "-addr", "127.0.0.1:0", "-loops", loops)
				s.stop(sig)
				s.quiet()
			}
		}
	})
}

func TestServerStopsWhileClientsAreConnected(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		if p.network != "tcp" {
			t.Skip("has no connections")
		}
		args := []string{"-addr", "127.0.0.1:0", "-loops", "2"}
		if p.workers {
			args = append(args, "-workers", "2")
		}
		s := p.start(t, args...)
		for range 8 {
			s.dial()
		}
		s.stop(syscall.SIGTERM)
	})
}

func TestServerListensOnIPv4AndIPv6(t *testing.T) {
	if conn, err := net.ListenPacket("udp", "[::1]:0"); err != nil {
		t.Skipf("no IPv6 on this machine: %v", err)
	} else {
		require.NoError(t, conn.Close())
	}
	each(t, func(t *testing.T, p program) {
		for _, loops := range []string{"1", "2"} {
			s := p.start(t, "-addr", ":0", "-loops", loops)
			assert.True(t, s.addr.Addr().IsUnspecified())
			for _, host := range []string{"127.0.0.1", "::1"} {
				answers(t, p, s.on(host))
			}
			s.stop(syscall.SIGTERM)
		}
	})
}

// answers asserts that a server answers at the address, whatever it is.
func answers(t *testing.T, p program, addr string) {
	t.Helper()
	if p.network == "tcp" {
		dialTCP(t, addr)
		return
	}
	conn, err := net.Dial(p.network, addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte("?"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.NoError(t, err)
}

// A signal that comes while the server shuts down, or before it listens, must
// not hang it.
func TestServerStopsByManySignals(t *testing.T) {
	each(t, func(t *testing.T, p program) {
		needPrograms(t)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := p.command(ctx, "-addr", "127.0.0.1:0", "-loops", "2")
		r, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = r.Read(make([]byte, 1))
		require.NoError(t, err)
		for range 3 {
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				require.ErrorIs(t, err, os.ErrProcessDone)
			}
		}
		_, _ = io.Copy(io.Discard, r) // until it has ended, however
		err = cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) { // the second signal was in time to kill it
			status := exit.Sys().(syscall.WaitStatus)
			assert.True(t, status.Signaled() && status.Signal() == syscall.SIGTERM, fmt.Sprint(err))
			return
		}
		assert.NoError(t, err)
		assert.NoError(t, ctx.Err())
	})
}

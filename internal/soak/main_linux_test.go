package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/testseed"
	"github.com/stepio-go/stepio/sm"
)

// faultVar says in a child's environment which fault its servers have.
const faultVar = "STEPIO_SOAK_FAULT"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if fault := os.Getenv(faultVar); fault != "" {
			newEcho = faults[fault]
		}
		os.Exit(runRole(role))
	}
	os.Exit(m.Run())
}

// short is a run for tests.
func short(t *testing.T) config {
	return config{
		length: 2 * time.Second, seed: testseed.Given(), rate: 400, loops: 2, interval: 250 * time.Millisecond, restart: time.Hour,
		grace: 10 * time.Second, settle: 10 * time.Second, dir: t.TempDir(),
	}.defaults()
}

func TestSoakServersLoseNothing(t *testing.T) {
	c := short(t)
	c.length, c.restart = 3*time.Second, 1200*time.Millisecond
	var out bytes.Buffer
	good, err := c.run(t.Context(), &out)
	t.Log(out.String())
	require.NoError(t, err)
	assert.True(t, good)
	assert.Regexp(t, `[1-9] restarts`, out.String())
	for _, kind := range []string{
		"echo", "echo-edge", "proxy", "get", "hash", "nap", "udp", "udp-batch", "visit", "news", "bulk", "idle",
	} {
		assert.Regexp(t, kind+` +[1-9]\d* +[1-9]`, out.String(), "no traffic")
	}
	f, err := os.Open(filepath.Join(c.dir, "samples.csv"))
	require.NoError(t, err)
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(rows), 3, "samples")
	for _, name := range []string{"report.txt", "soak.svg", "dump.txt"} {
		text, err := os.ReadFile(filepath.Join(c.dir, name))
		require.NoError(t, err)
		assert.NotEmpty(t, text, name)
	}
}

// faults are servers that a soak must not call good.
var faults = map[string]func(*stepio.TCPConn, bool) sm.Frame{
	"a wrong byte": func(c *stepio.TCPConn, edge bool) sm.Frame {
		return &faulty{echo: echo{conn: c, edge: edge}, corrupt: true}
	},
	"descriptor that stays open": func(c *stepio.TCPConn, edge bool) sm.Frame {
		fd, err := syscall.Dup(int(os.Stdin.Fd()))
		if err != nil {
			panic(fmt.Sprintf("dup: %v of descriptor %d", err, fd))
		}
		return &echo{conn: c, edge: edge}
	},
	"task that stays alive": func(c *stepio.TCPConn, edge bool) sm.Frame {
		c.Loop().Spawn(new(forever))
		return &echo{conn: c, edge: edge}
	},
	"panic": func(c *stepio.TCPConn, edge bool) sm.Frame { return &faulty{echo: echo{conn: c, edge: edge}} },
}

// faulty is an echo that goes wrong at its third step.
type faulty struct {
	echo
	corrupt bool
	steps   int
}

func (f *faulty) Step(t *sm.Task) sm.Await {
	if f.steps++; f.steps != 3 {
		return f.echo.Step(t)
	}
	if !f.corrupt {
		panic("planted")
	}
	one := []byte{0}
	if _, err := f.conn.Write(one); err != nil {
		return sm.Done
	}
	return f.echo.Step(t)
}

// forever is a task that waits for nothing.
type forever struct{}

func (*forever) Step(*sm.Task) sm.Await { return sm.Park }

func (*forever) Idle() bool { return true }

func TestSoakFindsAServerWith(t *testing.T) {
	for fault, want := range map[string]string{
		"a wrong byte":               `FAIL +failures(?s:.*)(was sent|more than was sent)`,
		"descriptor that stays open": `FAIL +descriptors`,
		"task that stays alive":      `FAIL +tasks`,
		"panic":                      `FAIL +failures(?s:.*)report of .*planted`,
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			c := short(t)
			c.length, c.settle, c.env = 600*time.Millisecond, 300*time.Millisecond, []string{faultVar + "=" + fault}
			var out bytes.Buffer
			good, err := c.run(t.Context(), &out)
			require.NoError(t, err, out.String())
			assert.False(t, good)
			assert.Regexp(t, want, out.String())
		})
	}
}

package hostile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Children: the processes that play the roles, and what is asked of them.

// A child is a process of this test. It ends with the test, at the latest, and
// with this process.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
	says bytes.Buffer // on standard error
}

// cpusFor are the processors of servers and of clients. With one, they share it.
func cpusFor(t testing.TB) (server, clients []int) {
	var set unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &set))
	var all []int
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		if set.IsSet(cpu) {
			all = append(all, cpu)
			left--
		}
	}
	if len(all) == 1 {
		return all, all
	}
	return all[:1], all[1:]
}

// startServer starts a server on the processor that is its own.
func startServer(t testing.TB, config serverConfig) (*child, serverHello) {
	mine, _ := cpusFor(t)
	c := start(t, "server", mine, config)
	var hello serverHello
	c.receive(&hello)
	c.eventually("every task waits", func(s serverStat) bool { return s.Ticks > 0 }) // the ticker is the last of them
	return c, hello
}

// startClient starts a role on the processors that are not the server's.
func startClient(t testing.TB, role string, config any) *child {
	_, others := cpusFor(t)
	return start(t, role, others, config)
}

func start(t testing.TB, role string, cpus []int, config any) *child {
	self, err := os.Executable()
	require.NoError(t, err)
	c := &child{t: t, cmd: exec.Command(self)}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role)
	c.cmd.Stderr = &c.says
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.in, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, startOn(cpus, c.cmd.Start))
	t.Cleanup(c.end)
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	c.send(config)
	return c
}

// startOn calls f on a thread that may only use those processors: a process that
// f starts inherits them (sched_setaffinity(2)).
func startOn(cpus []int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and left so when the thread cannot be made what it was
		var before, want unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			done <- fmt.Errorf("sched_getaffinity: %w", err)
			return
		}
		for _, cpu := range cpus {
			want.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &want); err != nil {
			done <- fmt.Errorf("sched_setaffinity: %w", err)
			return
		}
		err := f()
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (c *child) send(v any) {
	c.t.Helper()
	require.NoError(c.t, c.enc.Encode(v), "%s", &c.says)
}

// mostAnswering is how long a child may take for an answer.
const mostAnswering = 10 * time.Minute

// receive waits for an answer.
func (c *child) receive(v any) {
	c.t.Helper()
	over := time.AfterFunc(mostAnswering, func() { _ = c.cmd.Process.Kill() }) // then Decode fails
	defer over.Stop()
	require.NoError(c.t, c.dec.Decode(v), "%s", &c.says)
}

// ask has a server carry out a command.
func (c *child) ask(op string, n int) serverStat {
	c.t.Helper()
	c.send(serverCommand{Op: op, N: n})
	var stat serverStat
	c.receive(&stat)
	require.Empty(c.t, stat.Error)
	return stat
}

// eventually asks a server until cond is true of its answer.
func (c *child) eventually(what string, cond func(serverStat) bool) serverStat {
	c.t.Helper()
	for end := time.Now().Add(patience); ; {
		stat := c.ask("stat", 0)
		if cond(stat) {
			return stat
		}
		if time.Now().After(end) {
			require.FailNow(c.t, "waited in vain: "+what, "%+v", stat)
		}
	}
}

// end has the child come to its end, which is that of its input.
func (c *child) end() {
	if c.cmd.ProcessState != nil {
		return
	}
	if err := c.in.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		assert.NoError(c.t, err)
	}
	over := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	defer over.Stop()
	assert.NoError(c.t, c.cmd.Wait(), "%s", &c.says)
}

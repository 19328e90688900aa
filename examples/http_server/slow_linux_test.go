package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/testseed"
)

// Slow clients: thousands of them must not be noticed by the others. The server is
// a process of its own, and so are the slow clients. For figures of time, the server
// has the first processor to itself, and everybody else shares the second, where the
// slow ones run when nobody else does (SCHED_IDLE): they stand for clients on machines of their own.
// To itself means that it goes before what else the machine runs there
// (SCHED_FIFO), which otherwise takes it away for some milliseconds at a time, and that
// the processor never sleeps: one of a virtual machine that does may be late in
// waking by as much. Traces show both, and p99 beside them shows nothing else.

var (
	full    = flag.Bool("full", false, "tests with a reduced size by default have their full one")
	figures = flag.Bool("figures", false, "assert figures of time, too: on a machine that has nothing else to do")
)

// besideOthers has a test that waits for most of its time run beside other ones,
// unless figures are asked for.
func besideOthers(t *testing.T) {
	if !*full && !*figures {
		t.Parallel()
	}
}

// startServer starts the server as a process, with a large file and anything that
// is to stand before the command. It is asked to end when
// the test does, which cancels the test's own context before.
func startServer(t *testing.T, before ...string) (addr string, cmd *exec.Cmd) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "large.bin"), make([]byte, 8<<20), 0o600))
	cmd = wrapped(command(context.Background(), t, "-addr", "127.0.0.1:0", "-loops", "1", "-static", dir, "-grace", "1s"), before)
	if len(before) > 0 {
		// More threads than CPUs do not get on under SCHED_FIFO: the Go runtime's
		// sweeper would keep the CPU from the thread that it waits for.
		cmd.Env = append(cmd.Environ(), "GOMAXPROCS=1")
	}
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	addr = listening(t, cmd)
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, cmd.Wait())
		assert.Empty(t, stderr.String())
	})
	return addr, cmd
}

// wrapped is a command that another one runs.
func wrapped(cmd *exec.Cmd, before []string) *exec.Cmd {
	if len(before) > 0 {
		cmd.Args = append(slices.Clone(before), cmd.Args...)
		cmd.Path = before[0]
		cmd.Err = nil
	}
	return cmd
}

// places is what stands before the server's command and before that of a crowd,
// so that each has its place on the processors. The test itself goes to the second.
// Without -figures there are no places: who is bound to a processor that others
// keep busy waits for it.
func places(t *testing.T) (server, crowd []string) {
	if !*figures {
		return nil, nil
	}
	taskset, chrt := tool(t, "taskset"), tool(t, "chrt") // util-linux
	require.GreaterOrEqual(t, runtime.NumCPU(), 2)
	spin := exec.CommandContext(t.Context(), taskset, "-c", "0", chrt, "--idle", "0", "sh", "-c",
		"while kill -0 $PPID; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done") // ends with this process
	require.NoError(t, spin.Start())
	t.Cleanup(func() { assert.Error(t, spin.Wait(), "it has no end of its own") })
	out, err := exec.Command(taskset, "-a", "-c", "-p", "1", strconv.Itoa(os.Getpid())).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return []string{taskset, "-c", "0", chrt, "--fifo", "1"}, []string{taskset, "-c", "1", chrt, "--idle", "0"}
}

// slowClients is a crowd's process, seen from the test.
type slowClients struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startCrowd(t *testing.T, addr string, before []string) *slowClients {
	cmd := command(context.Background(), t)
	cmd.Env = append(os.Environ(), asCrowd+"="+addr)
	c := &slowClients{t: t, cmd: wrapped(cmd, before)}
	cmd.Stderr = os.Stderr
	var err error
	c.in, err = cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	c.out = bufio.NewReader(out)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, c.in.Close())
		assert.NoError(t, cmd.Wait())
	})
	return c
}

func (c *slowClients) do(command string) {
	_, err := io.WriteString(c.in, command+"\n")
	require.NoError(c.t, err)
}

// tell is what the crowd has to say, once it has followed the commands before.
func (c *slowClients) tell() (state crowdState) {
	c.do("tell")
	line, err := c.out.ReadBytes('\n')
	require.NoError(c.t, err)
	require.NoError(c.t, json.Unmarshal(line, &state))
	return state
}

// tellAll is the sum over all crowds.
func tellAll(crowds []*slowClients) (sum crowdState) {
	for _, c := range crowds {
		s := c.tell()
		sum.Connected += s.Connected
		sum.Bytes += s.Bytes
		sum.Cut += s.Cut
		sum.Failed += s.Failed
	}
	return sum
}

// awaitState waits until the crowds are in a state.
func awaitState(t *testing.T, crowds []*slowClients, in func(crowdState) bool) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(60 * time.Second); ; <-tick.C {
		state := tellAll(crowds)
		if in(state) {
			return
		}
		require.True(t, time.Now().Before(until), "in vain: %+v", state)
	}
}

var residentPeak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// mostResident is the most resident memory that a process has had, in bytes.
func mostResident(t *testing.T, pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	found := residentPeak.FindSubmatch(status)
	require.NotNil(t, found)
	size, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return size << 10
}

// processorTime is what a process has used: its CPU clock (clock_getcpuclockid(3)).
func processorTime(t *testing.T, pid int) time.Duration {
	const wholeProcess = 2 // CPUCLOCK_SCHED, of all its threads
	var used unix.Timespec
	require.NoError(t, unix.ClockGettime(int32(^pid<<3|wholeProcess), &used))
	return time.Duration(used.Nano())
}

// medians is the median of the p99 of each window, of both lists.
func medians(windows []*window) (kept, anew time.Duration) {
	var keeps, anews []time.Duration
	for _, w := range windows {
		keeps, anews = append(keeps, p99(w.kept)), append(anews, p99(w.anew))
	}
	slices.Sort(keeps)
	slices.Sort(anews)
	return keeps[len(keeps)/2], anews[len(anews)/2]
}

// together is what the clients on connections that stay have seen in all windows.
func together(windows []*window) (all []time.Duration) {
	for _, w := range windows {
		all = append(all, w.kept...)
	}
	return all
}

// Rounds of a window without slow clients and one with them, so that what the
// machine does besides meets both alike.
func TestSlowClientsAreNotNoticedByTheOthers(t *testing.T) {
	besideOthers(t)
	clients, processes, rounds, during := 500, 1, 2, 400*time.Millisecond
	if *full {
		clients, processes, rounds, during = 10_000, 10, 9, 2*time.Second
	}
	rnd := testseed.Rand(t)
	onServer, onCrowd := places(t)
	addr, server := startServer(t, onServer...)
	var crowds []*slowClients
	for range processes {
		crowds = append(crowds, startCrowd(t, addr, onCrowd))
	}
	var alone, beside []*window
	var rate []float64
	busy := make([]time.Duration, 2) // the server, alone and beside slow clients
	for range rounds {
		used := processorTime(t, server.Process.Pid)
		alone = append(alone, polite(t.Context(), rnd, addr, during))
		busy[0] += processorTime(t, server.Process.Pid) - used
		for _, c := range crowds {
			c.do(fmt.Sprintf("go %d", clients/processes))
		}
		// They connect, each in its turn, and go on a second later.
		awaitState(t, crowds, func(s crowdState) bool { return s.Connected >= clients*95/100 })
		goal := tellAll(crowds).Bytes + clients/2
		awaitState(t, crowds, func(s crowdState) bool { return s.Bytes >= goal })
		before := tellAll(crowds)
		used = processorTime(t, server.Process.Pid)
		began := time.Now()
		beside = append(beside, polite(t.Context(), rnd, addr, during))
		after := tellAll(crowds)
		busy[1] += processorTime(t, server.Process.Pid) - used
		rate = append(rate, float64(after.Bytes-before.Bytes)/time.Since(began).Seconds())
		assert.GreaterOrEqual(t, after.Connected, clients*3/4, "those that were cut off come again in a second")
		assert.Zero(t, after.Failed)
		for _, c := range crowds {
			c.do("end")
			assert.Zero(t, c.tell().Connected)
		}
	}
	for i, windows := range [][]*window{alone, beside} {
		for round, w := range windows {
			assert.Empty(t, w.failures)
			assert.NotEmpty(t, w.kept)
			assert.NotEmpty(t, w.anew)
			t.Logf("round %d, %-20s p99 %v of %d requests; connecting anew, %v of %d",
				round+1, []string{"alone:", "beside slow clients:"}[i], p99(w.kept), len(w.kept), p99(w.anew), len(w.anew))
		}
	}
	kept, anew := medians(alone)
	keptBeside, anewBeside := medians(beside)
	ratio := float64(keptBeside) / float64(kept)
	t.Logf("%d slow clients, a byte a second each (%.0f a second in all); the server's resident memory at its highest is %d MiB",
		clients, rate, mostResident(t, server.Process.Pid)>>20)
	t.Logf("the server's processor time: %.1f %% alone, %.1f %% beside them",
		100*busy[0].Seconds()/during.Seconds()/float64(rounds), 100*busy[1].Seconds()/during.Seconds()/float64(rounds))
	t.Logf("p99 of the others, median of %d windows: %v alone, %v beside them: ratio %.2f; connecting anew %v and %v: ratio %.2f",
		rounds, kept, keptBeside, ratio, anew, anewBeside, float64(anewBeside)/float64(anew))
	quiet, crowded := together(alone), together(beside)
	t.Logf("all windows together: p99 %v alone, %v beside them; p99.9 %v and %v",
		p99(quiet), p99(crowded), quantile(quiet, 0.999), quantile(crowded, 0.999))
	if *figures {
		assert.LessOrEqual(t, ratio, 1.5)
		for _, r := range rate {
			assert.GreaterOrEqual(t, r, float64(clients)*0.6, "the slow clients were there")
		}
	}
}

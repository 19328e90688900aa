package measure

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const soon = 10 * time.Second

func start(t *testing.T, name string, opts Options) *Process {
	t.Helper()
	p, err := StartProcess(helper(name), opts)
	require.NoError(t, err)
	t.Cleanup(p.Stop)
	return p
}

func TestProcessAnswersOnItsCPUs(t *testing.T) {
	cpus, err := CPUs()
	require.NoError(t, err)
	last := cpus[len(cpus)-1]
	p := start(t, "echo", Options{CPUs: []int{last}})
	require.NoError(t, p.Send([]byte("hello\n")))
	line, err := p.Receive(t.Context(), soon)
	require.NoError(t, err)
	require.Equal(t, "1 hello\n", string(line))
	var set unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(p.PID(), &set))
	require.Equal(t, 1, set.Count())
	require.True(t, set.IsSet(last))
	after, err := CPUs()
	require.NoError(t, err)
	require.Equal(t, cpus, after, "this process is not pinned by that")

	p.Stop()
	require.EqualError(t, p.Ended(0), "ended: exit status 0")
	_, err = p.Receive(t.Context(), soon)
	require.ErrorContains(t, err, "ended")
}

func TestProcessOfNoCPUIsAnError(t *testing.T) {
	_, err := StartProcess(helper("echo"), Options{CPUs: []int{1000}})
	require.ErrorContains(t, err, "sched_setaffinity")
}

func TestProcessWithoutAProgramIsAnError(t *testing.T) {
	_, err := StartProcess([]string{"/nonexistent/program"}, Options{})
	require.ErrorContains(t, err, "/nonexistent/program")
}

func TestProcessThatSaysNothingTimesOut(t *testing.T) {
	p := start(t, "echo", Options{})
	_, err := p.Receive(t.Context(), time.Millisecond)
	require.ErrorIs(t, err, ErrTimeout)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Receive(ctx, soon)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, p.Ended(0))
}

func TestProcessThatCrashesSaysWhy(t *testing.T) {
	p := start(t, "crash", Options{})
	_, err := p.Receive(t.Context(), soon)
	require.EqualError(t, err, "ended: exit status 3: the reason")
}

func TestProcessThatDoesNotEndIsKilled(t *testing.T) {
	p := start(t, "deaf", Options{})
	_, err := p.Receive(t.Context(), soon)
	require.NoError(t, err)
	p.Stop()
	require.EqualError(t, p.Ended(0), "ended: signal: killed")
}

func TestProcessThatIsMuteEndsByTerm(t *testing.T) {
	p := start(t, "mute", Options{Mute: true})
	_, err := p.Receive(t.Context(), soon)
	require.NoError(t, err)
	p.Stop()
	require.EqualError(t, p.Ended(0), "ended: exit status 0")
}

func TestProcessesEndWithAParentThatIsKilled(t *testing.T) {
	parent := start(t, "parent", Options{})
	for range 2 {
		line, err := parent.Receive(t.Context(), soon)
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(line)))
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, 0))
		defer require.Eventually(t, func() bool { return gone(pid) }, soon, 10*time.Millisecond)
	}
	parent.Kill()
}

// gone says that a process runs no more; nobody may have waited for it yet.
func gone(pid int) bool {
	state := value(file("/proc/"+strconv.Itoa(pid)+"/status"), "State", ":")
	return state == "" || strings.HasPrefix(state, "Z")
}

func TestRSSIsThatOfTheProcess(t *testing.T) {
	p := start(t, "echo", Options{})
	require.NoError(t, p.Send([]byte("up\n")))
	_, err := p.Receive(t.Context(), soon)
	require.NoError(t, err)
	rss, err := RSS(p.PID())
	require.NoError(t, err)
	require.Greater(t, rss, int64(100<<10))
	require.Less(t, rss, int64(1<<30))
	p.Stop()
	_, err = RSS(p.PID())
	require.Error(t, err)
}

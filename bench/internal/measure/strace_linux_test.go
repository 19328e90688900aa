package measure

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTraceCountsTheCallsOfAProcess(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("there is no strace")
	}
	if err := CanTrace(t.Context()); err != nil {
		t.Skip(err)
	}
	p := start(t, "echo", Options{CPUs: []int{firstCPU(t)}})
	exchange := func() {
		require.NoError(t, p.Send([]byte("x\n")))
		_, err := p.Receive(t.Context(), soon)
		require.NoError(t, err)
	}
	exchange()
	tracer, err := StartTrace(t.Context(), p.PID())
	require.NoError(t, err)
	const lines = 20
	for range lines {
		exchange()
	}
	calls, err := tracer.Stop()
	require.NoError(t, err)
	// strace may detach before it has seen the last call return.
	require.InDelta(t, lines, calls["write"], 1)
	exchange() // it goes on without strace
}

func TestTraceOfNoProcessIsAnError(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("there is no strace")
	}
	p := start(t, "echo", Options{})
	p.Stop()
	_, err := StartTrace(t.Context(), p.PID())
	require.ErrorContains(t, err, "strace")
}

func firstCPU(t *testing.T) int {
	t.Helper()
	cpus, err := CPUs()
	require.NoError(t, err)
	return cpus[0]
}

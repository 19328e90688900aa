package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// asBench, in the environment, makes the test binary the benchmark itself, and
// its children inherit it.
const asBench = "BENCH_TEST_AS_BENCH"

func TestMain(m *testing.M) {
	if os.Getenv(asBench) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// bench is the benchmark as a process.
func bench(args ...string) (cmd *exec.Cmd, stdout, stderr *output) {
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asBench+"=1")
	stdout, stderr = &output{}, &output{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func read(t *testing.T, dir string) result.Report {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	require.NoError(t, err)
	var r result.Report
	require.NoError(t, json.Unmarshal(text, &r))
	return r
}

func TestBenchWritesItsReports(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	cmd, stdout, stderr := bench("-only", "^(echo-64B-1|udp-64B)$", "-contenders", "^(stepio|net)$",
		"-rounds", "2", "-window", "20ms", "-parked", "1000", "-out", dir)
	require.NoError(t, cmd.Run(), "%v", stderr)
	require.Contains(t, stdout.String(), "echo-64B-1")
	require.Contains(t, stdout.String(), filepath.Join(dir, "report.html"))
	require.Contains(t, stderr.String(), "echo-64B-1")
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	require.NoError(t, err)
	require.Contains(t, string(page), "</html>")

	r := read(t, dir)
	require.Contains(t, r.Command, "-rounds 2")
	require.NotEmpty(t, r.Machine.CPU)
	require.NotEmpty(t, r.Claims)
	require.NotNil(t, r.Parked)
	require.Equal(t, 1000, r.Parked.Tasks)
	require.Len(t, r.Scenarios, 2)
	for _, s := range r.Scenarios {
		require.Len(t, s.Rows, 2)
		for _, row := range s.Rows {
			require.Empty(t, row.Failure)
			require.Len(t, row.Samples, 2)
			require.Equal(t, 2, row.CPU.N)
		}
	}
}

func TestBenchThatIsInterruptedWritesWhatThereIs(t *testing.T) {
	dir := t.TempDir()
	cmd, _, stderr := bench("-only", "^echo-64B-1$", "-contenders", "^(stepio|net)$",
		"-rounds", "100000", "-window", "20ms", "-strace", "off", "-out", dir)
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	require.Eventually(t, func() bool {
		return strings.Contains(stderr.String(), "echo-64B-1: ")
	}, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		require.NoError(t, cmd.Process.Kill())
		require.Fail(t, "it goes on")
	}
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), "%v", stderr)
	require.Contains(t, stderr.String(), "bench: interrupted")
	r := read(t, dir)
	require.Contains(t, r.Notes, "not complete: interrupted")
	require.Len(t, r.Scenarios, 1)
}

func TestBenchThatIsToldNonsenseSaysSo(t *testing.T) {
	for _, c := range []struct {
		args, want string
	}{
		{"-only no-such-scenario -out " + t.TempDir(), "leave nothing to run"},
		{"-foo", "-foo"},
		{"foo", `"foo"`},
		{"-only (", "-only"},
		{"-contenders (", "-contenders"},
		{"-rounds 0", "-rounds"},
		{"-strace maybe", "auto or off"},
		{"-quick -full", "exclude"},
		{"-cores 2 -out " + t.TempDir(), "-cores"},
		{"serve", "serve NAME SERVICE"},
		{"serve nobody echo", "nobody"},
		{"serve stepio http", "does not serve"},
		{"parked", "parked N"},
		{"parked none", "none"},
	} {
		cmd, stdout, stderr := bench(strings.Fields(c.args)...)
		require.Error(t, cmd.Run(), c.args)
		require.Equal(t, 1, cmd.ProcessState.ExitCode(), c.args)
		require.Contains(t, stderr.String(), c.want, c.args)
		require.Empty(t, stdout.String(), c.args)
	}
}

func TestBenchListsWhatThereIs(t *testing.T) {
	cmd, stdout, _ := bench("list")
	require.NoError(t, cmd.Run())
	require.Contains(t, stdout.String(), "C epoll")
	require.Contains(t, stdout.String(), "fanout-10000")
	cmd, _, stderr := bench("-h")
	require.NoError(t, cmd.Run())
	require.Contains(t, stderr.String(), "-quick")
}

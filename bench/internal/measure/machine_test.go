package measure

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDescribeTellsTheMachine(t *testing.T) {
	m := Describe(t.Context())
	require.NotEmpty(t, m.CPU)
	require.Positive(t, m.CPUs)
	require.NotEmpty(t, m.Kernel)
	require.NotEmpty(t, m.OS)
	require.Contains(t, m.Go, "go1.")
	if _, err := os.Stat("/proc/meminfo"); err == nil {
		require.Greater(t, m.MemoryBytes, int64(1<<20))
		require.NotEmpty(t, m.Load)
		require.NotEmpty(t, m.Congestion)
	}
}

func TestCommitIsMarkedWhenTheTreeWasChanged(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git")
	}
	dir := t.TempDir()
	require.Empty(t, Commit(t.Context(), dir), "not a repository")
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e@example.org"}, args...)
		out, err := exec.Command("git", args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	path := filepath.Join(dir, "file")
	git("init", "-q")
	require.NoError(t, os.WriteFile(path, []byte("one"), 0o600))
	git("add", "file")
	git("commit", "-q", "-m", "one")
	clean := Commit(t.Context(), dir)
	require.Len(t, clean, 12)
	require.NoError(t, os.WriteFile(path, []byte("two"), 0o600))
	require.Equal(t, clean+"+", Commit(t.Context(), dir))
}

func TestCPUModelOfArmIsItsNumbers(t *testing.T) {
	require.Equal(t, "AMD EPYC", cpuModel("processor\t: 0\nmodel name\t: AMD EPYC\n"))
	require.Equal(t, "implementer 0x41 part 0xd0c",
		cpuModel("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"))
	require.NotEmpty(t, cpuModel(""))
}

func TestTailKeepsTheFirstAndTheLast(t *testing.T) {
	var few, many tail
	for _, s := range []string{"one\n", "two\n"} {
		n, err := few.Write([]byte(s))
		require.NoError(t, err)
		require.Equal(t, len(s), n)
	}
	require.Equal(t, "one\ntwo", few.String())
	text := "panic: first" + strings.Repeat(" between", 10000) + " last"
	for chunk := text; chunk != ""; {
		k := min(777, len(chunk))
		_, err := many.Write([]byte(chunk[:k]))
		require.NoError(t, err)
		chunk = chunk[k:]
	}
	got := many.String()
	require.True(t, strings.HasPrefix(got, "panic: first between"), got)
	require.True(t, strings.HasSuffix(got, "between last"), got)
	require.Contains(t, got, "\n...\n")
	require.LessOrEqual(t, len(got), headBound+lastBound+10)
}

package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

func TestPickCores(t *testing.T) {
	four := []int{0, 1, 2, 3}
	for _, c := range []struct {
		text           string
		have           []int
		server, client []int
		err            string
	}{
		{text: "server=1,client=1", have: four, server: []int{0}, client: []int{1}},
		{text: "client=2,server=2", have: four, server: []int{0, 1}, client: []int{2, 3}},
		{text: "server=1,client=1", have: []int{4, 6}, server: []int{4}, client: []int{6}},
		{text: "server=1,client=1", have: []int{5}, server: []int{5}, client: []int{5}},
		{text: "server=0,client=1", have: four, server: []int{0}, client: []int{1}},
		{text: "server=3,client=0", have: four, server: []int{3}, client: []int{0}},
		{text: "server=2-2,client=0+3", have: four, server: []int{2}, client: []int{0, 3}},
		{text: "server=0,client=1-2+3", have: four, server: []int{0}, client: []int{1, 2, 3}},
		{text: "server=3,client=2", have: four, err: "there are 4 CPUs"},
		{text: "server=9223372036854775807,client=2", have: four, err: "there are 4 CPUs"},
		{text: "server=0,client=0", have: four, err: "both sides"},
		{text: "server=0,client=0", have: []int{0}, server: []int{0}, client: []int{0}},
		{text: "server=0,client=4", have: four, err: "not among"},
		{text: "server=0,client=1-2000000000", have: four, err: "not among"},
		{text: "server=0,client=1+1", have: four, err: "twice"},
		{text: "server=0,client=3-1", have: four, err: "not among"},
		{text: "server=-1,client=1", have: four, err: "-cores"},
		{text: "server=x,client=1", have: four, err: "-cores"},
		{text: "server=1", have: four, err: "both"},
		{text: "server=1,server=1", have: four, err: "-cores"},
		{text: "2", have: four, err: "-cores"},
		{text: "", have: four, err: "-cores"},
	} {
		server, client, err := pickCores(c.text, c.have)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, c.text)
			continue
		}
		require.NoError(t, err, c.text)
		require.Equal(t, c.server, server, c.text)
		require.Equal(t, c.client, client, c.text)
	}
}

func TestParseGivesEachRunItsLength(t *testing.T) {
	longerQuick, otherQuick, longerFull, untraced := quick, quick, full, usual
	longerQuick.rounds, longerQuick.tight = 7, 7
	otherQuick.few = false // who names contenders gets those
	longerFull.window, longerFull.parked = time.Second, 0
	untraced.traced = 0
	for _, c := range []struct {
		args []string
		want length
	}{
		{nil, usual},
		{[]string{"-quick"}, quick},
		{[]string{"-full"}, full},
		{[]string{"-quick", "-rounds", "7"}, longerQuick},
		{[]string{"-quick", "-contenders", "nbio"}, otherQuick},
		{[]string{"-full", "-window", "1s", "-parked", "0"}, longerFull},
		{[]string{"-strace", "off"}, untraced},
	} {
		s, err := parse(c.args, io.Discard)
		require.NoError(t, err)
		require.Equal(t, c.want, s.length, "%v", c.args)
		require.Equal(t, c.want.few, len(s.notes) > 0, "who is left out is said")
	}
}

func TestQuickNamesAreOfContendersThatThereAre(t *testing.T) {
	s, err := parse([]string{"-quick"}, io.Discard)
	require.NoError(t, err)
	for _, name := range quickNames {
		_, ok := contend.Find(name)
		require.True(t, ok, name)
		require.True(t, s.takes(name))
	}
	require.False(t, s.takes("nbio"))
}

func TestModuleDirIsFoundFromAnywhere(t *testing.T) {
	here, err := moduleDir()
	require.NoError(t, err)
	t.Chdir("internal/suite")
	below, err := moduleDir()
	require.NoError(t, err)
	require.Equal(t, here, below)
	t.Chdir("../../..")
	above, err := moduleDir()
	require.NoError(t, err)
	require.Equal(t, here, above)
}

func TestBuildTaggedBuildsAndSaysWhyNot(t *testing.T) {
	if testing.Short() {
		t.Skip("builds this program")
	}
	path, err := buildTagged(t.Context(), t.TempDir(), "poll_opt")
	require.NoError(t, err)
	require.FileExists(t, path)
	t.Chdir(t.TempDir())
	_, err = buildTagged(t.Context(), t.TempDir(), "poll_opt")
	require.ErrorContains(t, err, "go build -tags poll_opt")
}

func TestProgressTellsPlainLinesSparsely(t *testing.T) {
	var out bytes.Buffer
	began := time.Unix(1000, 0)
	p := &progress{out: &out, began: began, topics: make(map[string]bool)}
	tell := func(after time.Duration, what string, done, total time.Duration) string {
		out.Reset()
		p.tell(began.Add(after), what, done, total)
		return out.String()
	}
	require.Equal(t, "    0s  preparing\n", tell(0, "preparing", 0, 0))
	require.Equal(t, "    1s  a: one (about 1m40s to go)\n", tell(time.Second, "a: one", time.Second, 101*time.Second))
	require.Empty(t, tell(2*time.Second, "a: two", 2*time.Second, 101*time.Second))
	require.Equal(t, "    3s  b: one (about 1m38s to go)\n", tell(3*time.Second, "b: one", 3*time.Second, 101*time.Second))
	require.Empty(t, tell(4*time.Second, "a: three", 3*time.Second, 101*time.Second))
	require.NotEmpty(t, tell(4*time.Second+plainEvery, "a: four", 3*time.Second, 101*time.Second))
	p.end()
	p.terminal = true
	require.Equal(t, "\r   21s  a: five (about 1m0s to go)\x1b[K", tell(21*time.Second, "a: five", 20*time.Second, 80*time.Second))
	require.Equal(t, "\r   21s  a: six (about 30s to go)\x1b[K", tell(21*time.Second, "a: six", 40*time.Second, 100*time.Second),
		"what is done went twice as fast as was thought")
}

func TestBusyAtStart(t *testing.T) {
	assert.InDelta(t, 4.54, busyAtStart("4.54 2.01 1.00 3/96 733"), 1e-9)
	assert.Zero(t, busyAtStart(""))
}

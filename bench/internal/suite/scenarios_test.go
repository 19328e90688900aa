package suite

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

func TestScenariosHaveNamesOfTheirOwn(t *testing.T) {
	want := []string{
		"echo-64B-1", "echo-64B-100", "echo-64B-1000", "echo-64B-10000", "paced-1000", "paced-8000", "pipeline-16", "echo-4KiB", "echo-64KiB",
		"active-100", "active-100-idle-15000", "density", "churn", "udp-64B", "http-hello", "http-hello-pipelined",
		"fanout-1000", "fanout-10000",
	}
	var got []string
	titles := make(map[string]bool)
	for _, s := range Scenarios() {
		got = append(got, s.ID)
		require.False(t, titles[s.Title], "%s: %s", s.ID, s.Title)
		titles[s.Title] = true
		require.NotEmpty(t, s.Group)
		require.NotEmpty(t, s.Unit)
		require.Positive(t, s.Stretch)
		for _, name := range slices.Concat(s.Only, s.Not) {
			_, ok := contend.Find(name)
			require.True(t, ok, "%s: there is no %q", s.ID, name)
		}
	}
	require.Equal(t, want, got)
}

// The size of a buffer must not decide what is a comparison of servers.
func TestNetHasABufferOfTheMessagesSize(t *testing.T) {
	for _, s := range Scenarios() {
		if s.Service != contend.Echo || s.Only != nil {
			continue
		}
		small, _ := contend.Find("net small")
		large, _ := contend.Find("net large")
		require.Equal(t, s.Size < 1<<10, s.takes(small), s.ID)
		require.Equal(t, s.Size >= 64<<10, s.takes(large), s.ID)
	}
}

func TestPairsAreOfContendersThatThereAre(t *testing.T) {
	for _, pair := range pairs {
		_, ok := contend.Find(pair[0])
		require.True(t, ok, pair[0])
		limit, ok := contend.Find(pair[1])
		require.True(t, ok, pair[1])
		require.True(t, limit.Limit)
	}
}

func TestBlocksKeepNeighboursTogether(t *testing.T) {
	got := blocks(Scenarios())
	require.Len(t, got, len(Scenarios())-1)
	for _, block := range got {
		if len(block) > 1 {
			require.Equal(t, ActiveAlone, block[0].ID)
			require.Equal(t, ActiveAmong, block[1].ID)
		}
	}
}

func TestWindowsStretch(t *testing.T) {
	s := tcpEcho("x", "echo", 1, 64, 1)
	require.Equal(t, time.Second, s.window(time.Second))
	s.Stretch = 3
	require.Equal(t, 3*time.Second, s.window(time.Second))
}

func TestLivesAreNearlyOfOneLength(t *testing.T) {
	require.Equal(t, [][2]int{{0, 4}}, lives(4, 0))
	require.Equal(t, [][2]int{{0, 4}}, lives(4, 4))
	require.Equal(t, [][2]int{{0, 3}, {3, 6}}, lives(6, 4))
	require.Equal(t, [][2]int{{0, 3}, {3, 7}}, lives(7, 4))
	require.Equal(t, [][2]int{{0, 6}, {6, 12}}, lives(12, 8))
	require.Equal(t, [][2]int{{0, 8}, {8, 16}, {16, 24}, {24, 32}, {32, 40}}, lives(40, 8))
	for rounds := 1; rounds <= 20; rounds++ {
		for life := 1; life <= 21; life++ {
			next := 0
			for _, l := range lives(rounds, life) {
				require.Equal(t, next, l[0])
				require.Greater(t, l[1], l[0])
				require.LessOrEqual(t, l[1]-l[0], life)
				next = l[1]
			}
			require.Equal(t, rounds, next)
		}
	}
}

func TestTightScenariosHaveMoreRounds(t *testing.T) {
	cfg := &Config{Rounds: 4, RoundsTight: 6}
	var tight []string
	for _, block := range blocks(Scenarios()) {
		for _, s := range block {
			require.Equal(t, block[0].Tight, s.Tight, "%s: the rounds of a block are alike", s.ID)
			if cfg.rounds(&s) == 6 {
				tight = append(tight, s.ID)
			} else {
				require.Equal(t, 4, cfg.rounds(&s), s.ID)
			}
		}
	}
	require.Equal(t, []string{"echo-64B-1", "echo-64B-100", "echo-64B-1000", "echo-64B-10000", "udp-64B"}, tight)
}

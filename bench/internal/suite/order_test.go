package suite

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func names(n int) []string {
	all := []string{"stepio", "stepio edge", "stepio pool", "C epoll", "net", "net small", "gnet", "nbio", "netpoll", "evio", "gaio"}
	return all[:n]
}

func TestOrderKeepsPairsTogether(t *testing.T) {
	all := append(names(11), "C mmsg", "stepio batch")
	for round := range 100 {
		got := order(all, round)
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		for i := range all {
			require.Equal(t, i, sorted[i], "round %d: everyone has one window", round)
		}
		for _, pair := range pairs {
			first := slices.Index(got, slices.Index(all, pair[0]))
			second := slices.Index(got, slices.Index(all, pair[1]))
			require.Contains(t, []int{-1, 1}, first-second, "round %d: %v in %v", round, pair, got)
		}
	}
}

func TestOrderGivesEveryoneOtherNeighbours(t *testing.T) {
	for n := 3; n <= 11; n++ {
		t.Run(fmt.Sprintf("%d contenders", n), func(t *testing.T) {
			all := names(n)
			first := make(map[int]bool)
			before := make(map[int]map[int]bool)
			for round := range 2 * n {
				got := order(all, round)
				first[got[0]] = true
				for i := 1; i < n; i++ {
					if before[got[i]] == nil {
						before[got[i]] = make(map[int]bool)
					}
					before[got[i]][got[i-1]] = true
				}
			}
			require.Len(t, first, n, "each begins a round now and then")
			for i := range n {
				require.GreaterOrEqual(t, len(before[i]), 2, "%s comes after different ones", all[i])
			}
		})
	}
}

func TestOrderLetsAPairTakeTurns(t *testing.T) {
	require.Equal(t, []int{0, 1}, order([]string{"stepio", "C epoll"}, 0))
	require.Equal(t, []int{1, 0}, order([]string{"stepio", "C epoll"}, 1))
	require.Equal(t, []int{0}, order([]string{"C epoll"}, 1))
	require.Empty(t, order(nil, 0))
}

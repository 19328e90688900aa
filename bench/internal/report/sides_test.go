package report_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// busy is a window of one second in which server and client had so many hundredths
// of their CPUs.
func busy(round, server, client int) result.Sample {
	return result.Sample{
		Round: round, Requests: 1000, Elapsed: time.Second,
		CPU: time.Duration(server) * 10 * time.Millisecond, Client: time.Duration(client) * 10 * time.Millisecond,
	}
}

func TestDoubtsAreOfServersOnDifferentSidesOfTheirClients(t *testing.T) {
	slow := func(round int) result.Sample { return busy(round, 99, 90) } // the server is the slower one
	fast := func(round int) result.Sample { return busy(round, 90, 99) }
	even := func(round int) result.Sample { return busy(round, 99, 98) } // nobody is
	easy := func(round int) result.Sample { return busy(round, 40, 60) } // nor here
	rounds := func(kinds ...func(int) result.Sample) []result.Sample {
		var all []result.Sample
		for i, kind := range kinds {
			all = append(all, kind(i))
		}
		return all
	}
	allSlow := rounds(slow, slow, slow, slow, slow, slow)
	for _, c := range []struct {
		name         string
		ours, theirs []result.Sample
		want         string
	}{
		{"both are slower", allSlow, allSlow, ""},
		{"both are faster", rounds(fast, fast, fast, fast, fast, fast), rounds(fast, fast, fast, fast, fast, fast), ""},
		{"in one round of three", allSlow, rounds(fast, slow, slow, fast, slow, slow), "in 2 of 6 rounds"},
		{"in one of six", allSlow, rounds(fast, slow, slow, slow, slow, slow), ""},
		{"the library is the faster one", rounds(fast, fast, fast, fast, fast, fast), allSlow, "in 6 of 6 rounds"},
		{"nobody by a margin", allSlow, rounds(even, even, even, even, even, even), ""},
		{"time to spare", allSlow, rounds(easy, easy, easy, easy, easy, easy), ""},
		{"time to spare counts as a round", allSlow, rounds(fast, easy, easy, easy, easy, easy), ""},
		{"too few rounds", rounds(slow, slow, slow), rounds(fast, fast, fast), ""},
		{"rounds that one of them has not", allSlow, rounds(fast, fast, fast, fast, fast), ""},
		{"no limit", allSlow, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := result.Scenario{ID: "echo-64B-1000", Rows: []result.Row{{Contender: "net", Samples: []result.Sample{fast(0)}}}}
			s.Rows = append(s.Rows, result.Row{Contender: "stepio", Samples: c.ours})
			if c.theirs != nil {
				s.Rows = append(s.Rows, result.Row{Contender: "C epoll", Samples: c.theirs})
			}
			notes := report.Doubts(&result.Report{Scenarios: []result.Scenario{s}})
			if c.want == "" {
				require.Empty(t, notes)
				return
			}
			require.Len(t, notes, 1)
			require.Contains(t, notes[0], "echo-64B-1000: "+c.want+" one of stepio and C epoll")
		})
	}
}

// What a server takes together with its client is said beside the doubt.
func TestDoubtsSayWhatServerAndClientTookTogether(t *testing.T) {
	s := result.Scenario{ID: "echo-64B-1000", Rows: []result.Row{{Contender: "stepio"}, {Contender: "C epoll"}}}
	for round := range 6 {
		s.Rows[0].Samples = append(s.Rows[0].Samples, busy(round, 99, 93)) // for a request 2.20 of C's by itself
		theirs := busy(round, 90, 98)
		theirs.Requests *= 2
		s.Rows[1].Samples = append(s.Rows[1].Samples, theirs)
	}
	notes := report.Doubts(&result.Report{Scenarios: []result.Scenario{s}})
	require.Len(t, notes, 1)
	require.Contains(t, notes[0], "stepio and its client together took 2.04 of the CPU a request of C epoll and its client")
}

// A scenario that promises nothing of the CPU to C has nothing to doubt.
func TestDoubtsAreOfPromisesOnly(t *testing.T) {
	s := result.Scenario{ID: "echo-64KiB", Rows: []result.Row{{Contender: "stepio"}, {Contender: "C epoll"}}}
	for round := range 6 {
		s.Rows[0].Samples = append(s.Rows[0].Samples, busy(round, 99, 90))
		s.Rows[1].Samples = append(s.Rows[1].Samples, busy(round, 90, 99))
	}
	require.Empty(t, report.Doubts(&result.Report{Scenarios: []result.Scenario{s}}))
	s.ID = "echo-4KiB"
	require.Len(t, report.Doubts(&result.Report{Scenarios: []result.Scenario{s}}), 1)
}

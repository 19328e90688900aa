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
	easy := func(round int) result.Sample { return busy(round, 40, 41) } // nobody is
	for _, c := range []struct {
		name         string
		ours, theirs []result.Sample
		want         string
	}{
		{"both are slower", []result.Sample{slow(0), slow(1), slow(2)}, []result.Sample{slow(0), slow(1), slow(2)}, ""},
		{"both are faster", []result.Sample{fast(0), fast(1)}, []result.Sample{fast(0), fast(1)}, ""},
		{"one round in three", []result.Sample{slow(0), slow(1), slow(2)}, []result.Sample{slow(2), fast(0), slow(1)}, "in 1 of 3 rounds"},
		{"one in four", []result.Sample{slow(0), slow(1), slow(2), slow(3)}, []result.Sample{fast(0), slow(1), slow(2), slow(3)}, ""},
		{"the library is the faster one", []result.Sample{fast(0), fast(1)}, []result.Sample{slow(0), slow(1)}, "in 2 of 2 rounds"},
		{"time to spare", []result.Sample{busy(0, 41, 40), slow(1)}, []result.Sample{easy(0), easy(1)}, ""},
		{"a round that one of them has not", []result.Sample{slow(0), slow(1)}, []result.Sample{fast(1), fast(2)}, "in 1 of 1 rounds"},
		{"no limit", []result.Sample{slow(0)}, nil, ""},
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

package report

import (
	"fmt"
	"math"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// Of a server and its client, under full load, the slower one has the messages wait
// before it, and finds their sockets cold; the faster one finds them warm. Where two
// servers stand on different sides of their clients, a small difference between them
// can show as a large one.

// A side says who of server and client was the slower one in a window.
type side int

const (
	neither      side = iota // nobody by a margin, or both had time to spare, or it was not measured
	serverSlower             // the client waited for the server
	clientSlower
)

const (
	slowerFrom = 0.80 // the share of a CPU from which on somebody has no time to spare
	slowerThan = 0.02 // by so much of a CPU more than the other
)

func sideOf(s result.Sample) side {
	server, ok1 := serverBusyOf(s)
	client, ok2 := clientBusyOf(s)
	switch {
	case !ok1 || !ok2 || max(server, client) < slowerFrom || math.Abs(server-client) < slowerThan:
		return neither
	case server > client:
		return serverSlower
	}
	return clientSlower
}

// apart is the number of rounds in which stepio and the limit stood on different
// sides of their clients, of those that both have; s may be nil.
func apart(s *result.Scenario) (k, n int) {
	ours, theirs := findRow(s, stepio), findRow(s, limit)
	if ours == nil || theirs == nil {
		return 0, 0
	}
	of := make(map[int]side, len(theirs.Samples)) // by round
	for _, sample := range theirs.Samples {
		of[sample.Round] = sideOf(sample)
	}
	for _, sample := range ours.Samples {
		their, both := of[sample.Round]
		if !both {
			continue
		}
		n++
		if our := sideOf(sample); our != neither && their != neither && our != their {
			k++
		}
	}
	return k, n
}

// Doubts returns a note for each scenario with a promise of CPU to the limit in which
// the two stood on different sides of their clients in a third of the rounds or more,
// of six at least: their ratio there is of unlike and unlike. With it goes the ratio of
// what each took together with its client, as a second view.
func Doubts(r *result.Report) []string {
	var notes []string
	for _, id := range claim(r).toLimit {
		s := findScenario(r, id)
		if k, n := apart(s); n >= 6 && 3*k >= n {
			pair := ratio(findRow(s, stepio), findRow(s, limit), pairOf)
			notes = append(notes, fmt.Sprintf("%s: in %d of %d rounds one of %s and %s was slower than its client and the other faster, "+
				"which can make a small difference a large one; %s and its client together took %.2f of the CPU a request of %s and its client "+
				"(bench/README.md, \"The client\")", id, k, n, stepio, limit, stepio, pair.Median, limit))
		}
	}
	return notes
}

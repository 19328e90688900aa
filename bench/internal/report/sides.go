package report

import (
	"fmt"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// Of a server and its client, under full load, the slower one has the messages wait
// before it, finds their sockets cold and takes more CPU for each; the faster one
// finds them warm. Where two servers stand on different sides of their clients, a
// small difference between them shows as a large one.

// A side says who of server and client was the slower one in a window.
type side int

const (
	neither      side = iota // both had time to spare, or it was not measured
	serverSlower             // the client waited for the server
	clientSlower
)

// slowerFrom is the share of a CPU from which on somebody has no time to spare.
const slowerFrom = 0.8

func sideOf(s result.Sample) side {
	server, ok1 := serverBusyOf(s)
	client, ok2 := clientBusyOf(s)
	switch {
	case !ok1 || !ok2 || max(server, client) < slowerFrom:
		return neither
	case server > client:
		return serverSlower
	}
	return clientSlower
}

// apart is the number of rounds in which stepio and the limit stood on different
// sides of their clients, of those in which each stood on one.
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
		our, their := sideOf(sample), of[sample.Round]
		if our == neither || their == neither {
			continue
		}
		n++
		if our != their {
			k++
		}
	}
	return k, n
}

// Doubts returns a note for each scenario in which stepio and the limit stood on
// different sides of their clients in a third of the rounds or more: their ratio
// there is of unlike and unlike.
func Doubts(r *result.Report) []string {
	var notes []string
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		if k, n := apart(s); k > 0 && 3*k >= n {
			notes = append(notes, fmt.Sprintf("%s: in %d of %d rounds one of %s and %s was slower than its client and the other faster, "+
				"which makes a small difference a large one (bench/README.md, \"The client\")", s.ID, k, n, stepio, limit))
		}
	}
	return notes
}

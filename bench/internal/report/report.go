// Package report turns what a run has measured into what people read: it
// computes each row's figures from its samples, holds them against what the
// library promises, and writes a table for the terminal, a JSON file and an HTML
// page with plots.
package report

import (
	"encoding/json"
	"io"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// The contenders that the ratios and the claims refer to by name.
const (
	stepio      = "stepio"
	stepioPool  = "stepio pool"
	stepioBatch = "stepio batch" // UDP in batches: recvmmsg and sendmmsg
	limit       = "C epoll"      // the bound of every scenario
	limitBatch  = "C mmsg"       // and of the contenders that batch datagrams
	packageNet  = "net"
	gnet        = "gnet"
	netHTTP     = "net/http"
)

// peers are the Go libraries of which the fastest is "the best peer".
var peers = []string{packageNet, "net small", "net large", gnet, "gnet poll_opt", "nbio", "netpoll", "evio", "gaio"}

// JSON writes the whole report, every raw sample included, as indented JSON.
// It fails when a figure is not a number, which JSON cannot hold; Summarize
// makes none of those.
func JSON(w io.Writer, r *result.Report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// findScenario returns the scenario of that ID, or nil.
func findScenario(r *result.Report, id string) *result.Scenario {
	for i := range r.Scenarios {
		if r.Scenarios[i].ID == id {
			return &r.Scenarios[i]
		}
	}
	return nil
}

// findRow returns the row of that contender, or nil; s may be nil.
func findRow(s *result.Scenario, contender string) *result.Row {
	if s == nil {
		return nil
	}
	for i := range s.Rows {
		if s.Rows[i].Contender == contender {
			return &s.Rows[i]
		}
	}
	return nil
}

package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/measure"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// parkedBound is how long the parked tasks may take.
const parkedBound = 5 * time.Minute

// A Config says what to run and with what.
type Config struct {
	Contenders []contend.Contender
	Scenarios  []Scenario
	// Rounds is how many windows each contender has in a scenario, and RoundsTight
	// how many in one that is Tight.
	Rounds, RoundsTight int
	// Life is how many rounds a server and its client live, at most; then all are
	// started anew. With 0 they live for all rounds.
	Life   int
	Window time.Duration
	// The CPUs of each server and of each client.
	ServerCores, ClientCores []int
	// The syscalls of each contender are counted under strace in the scenarios of
	// at most that many active connections; with 0 in none.
	TraceConns int
	// Parked is the number of parked tasks to weigh, none when it is zero.
	Parked int
	// Files is the number of descriptors that a process may open.
	Files int

	// Server is the command line that serves: NAME and SERVICE are added.
	Server []string
	// Tagged builds this program with build tags and returns the command line that
	// serves, like Server.
	Tagged func(ctx context.Context, tags string) ([]string, error)
	// Load is the command line of a client, Park that of the parked tasks, to which
	// their number is added.
	Load, Park []string

	// Progress is told what begins, how much of the run is done and how much there
	// is in all, both as estimates of time.
	Progress func(what string, done, total time.Duration)

	listen time.Duration // instead of listenBound, when it is not zero
}

// A runner is a run under way.
type runner struct {
	cfg    *Config
	report *result.Report
	cast   []member
	done   time.Duration
	total  time.Duration
}

// Run runs the scenarios. What goes wrong with a contender is a failure in its
// rows; the error is of the benchmark itself, or the context's when it was
// interrupted. The report holds what there is in either case.
func Run(ctx context.Context, cfg *Config) (*result.Report, error) {
	r := &runner{cfg: cfg, report: &result.Report{
		Started: time.Now(),
		Settings: result.Settings{
			Window:      cfg.Window,
			Rounds:      cfg.Rounds,
			RoundsTight: cfg.RoundsTight,
			Life:        cfg.Life,
			ServerCores: cfg.ServerCores,
			ClientCores: cfg.ClientCores,
		},
		Scenarios: []result.Scenario{},
	}}
	err := r.run(ctx)
	r.report.Took = time.Since(r.report.Started)
	return r.report, err
}

func (r *runner) run(ctx context.Context) error {
	r.step("preparing the contenders", 0)
	if err := r.prepare(ctx); err != nil {
		return err
	}
	var all [][]Scenario
	for _, block := range blocks(r.cfg.Scenarios) {
		if block = r.fitting(block); len(block) == 0 {
			continue
		}
		all = append(all, block)
		r.total += r.cost(block)
	}
	if r.cfg.Parked > 0 {
		r.total += time.Duration(r.cfg.Parked) * costParked
	}
	for _, block := range all {
		measure := r.measure
		if block[0].Points != nil {
			measure = r.density
		}
		scenarios, err := measure(ctx, block)
		r.report.Scenarios = append(r.report.Scenarios, scenarios...)
		if err != nil {
			return err
		}
	}
	if r.cfg.Parked > 0 {
		return r.parked(ctx)
	}
	return nil
}

// fitting returns the scenarios of a block for which there are descriptors
// enough, and notes the others.
func (r *runner) fitting(block []Scenario) []Scenario {
	var out []Scenario
	for _, s := range block {
		if need := s.files(); need > r.cfg.Files {
			r.note("%s: left out, it needs %d open files and the limit is %d (ulimit -n)", s.ID, need, r.cfg.Files)
			continue
		}
		out = append(out, s)
	}
	return out
}

// step tells the progress: what begins now, and what the step before it counted.
func (r *runner) step(what string, before time.Duration) {
	r.done += before
	r.cfg.Progress(what, r.done, max(r.total, r.done))
}

func (r *runner) note(format string, args ...any) {
	r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
}

// parked weighs parked tasks in a process of its own. A failure is a note.
func (r *runner) parked(ctx context.Context) error {
	r.step(fmt.Sprintf("%d parked tasks", r.cfg.Parked), 0)
	command := append(append([]string(nil), r.cfg.Park...), strconv.Itoa(r.cfg.Parked))
	// It does not read its input, and must end with this process all the same.
	p, err := measure.StartProcess(command, measure.Options{CPUs: r.cfg.ServerCores, Mute: true})
	if err != nil {
		return err
	}
	defer p.Stop()
	line, err := p.Receive(ctx, parkedBound)
	if ctx.Err() != nil {
		p.Kill()
		return ctx.Err()
	}
	var parked result.Parked
	if err == nil {
		err = json.Unmarshal(line, &parked)
	}
	if err != nil {
		r.note("parked tasks: %v", err)
		return nil
	}
	r.report.Parked = &parked
	r.step("done", time.Duration(r.cfg.Parked)*costParked)
	return nil
}

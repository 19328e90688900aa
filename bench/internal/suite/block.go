package suite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// What the parts of a run take besides their windows, as far as the progress
// line is concerned. Measured on two CPUs of a virtual machine.
const (
	costStart  = 120 * time.Millisecond // both processes of a session, from start to end
	costOpened = 85 * time.Microsecond  // a connection, opened and closed
	costServed = 25 * time.Microsecond  // its share of a window in which all have one message
	costTrace  = 50 * time.Millisecond  // to attach strace and to detach it
	costTraced = 130 * time.Microsecond // such a share under strace
	costSettle = 300 * time.Millisecond // a server's memory, until it stays the same
	costParked = 10 * time.Microsecond  // a parked task
)

// warming is the length of the window that warms up a session, and tracing of
// the one under strace, of which as many syscalls are seen as are needed.
func warming(window time.Duration) time.Duration { return window / 2 }

func tracing(window time.Duration) time.Duration { return min(window, 150*time.Millisecond) }

// cost is the estimate of a block.
func (r *runner) cost(block []Scenario) time.Duration {
	var sum time.Duration
	for i := range block {
		s := &block[i]
		each := r.costOpen(s) + r.costTrace(s)
		if s.Points == nil {
			rounds := r.cfg.rounds(s)
			each += time.Duration(rounds) * r.costWindow(s)
			each += time.Duration(len(lives(rounds, r.cfg.Life))-1) * r.costOpen(s)
		}
		sum += time.Duration(len(r.members(s))) * each
	}
	return sum
}

func (r *runner) costOpen(s *Scenario) time.Duration {
	cost := costStart + time.Duration(s.Conns+s.Idle)*costOpened
	if s.Points != nil {
		return cost + time.Duration(len(s.Points))*costSettle
	}
	return cost + max(warming(s.window(r.cfg.Window)), time.Duration(s.Conns)*costServed)
}

func (r *runner) costWindow(s *Scenario) time.Duration {
	return max(s.window(r.cfg.Window), time.Duration(s.Conns)*costServed)
}

func (r *runner) costTrace(s *Scenario) time.Duration {
	if !r.traces(s) {
		return 0
	}
	return costTrace + max(tracing(s.window(r.cfg.Window)), time.Duration(s.Conns)*costTraced)
}

// traces says whether the syscalls of a scenario are counted.
func (r *runner) traces(s *Scenario) bool {
	return s.Points == nil && s.Conns <= r.cfg.TraceConns
}

// members returns who takes part in the scenario.
func (r *runner) members(s *Scenario) []member {
	var out []member
	for _, m := range r.cast {
		if m.commands[s.Service].args != nil && s.takes(m.Contender) {
			out = append(out, m)
		}
	}
	return out
}

// rounds is how many windows each contender has in s. Those of a block are alike.
func (cfg *Config) rounds(s *Scenario) int {
	if s.Tight {
		return cfg.RoundsTight
	}
	return cfg.Rounds
}

// A field is a block under way: one session for each of its scenarios and
// contenders.
type field struct {
	rounds   int
	names    []string     // of the contenders
	sessions [][]*session // of each, in the order of the scenarios
	out      []result.Scenario
}

// enter makes the rows and the sessions of a block.
func (r *runner) enter(block []Scenario) *field {
	f := &field{rounds: r.cfg.rounds(&block[0])}
	places := make(map[string]int)
	for i := range block {
		s := &block[i]
		out, members := s.Scenario, r.members(s)
		// At its full length at once: the sessions keep pointers to the rows.
		out.Rows = make([]result.Row, len(members))
		for j, m := range members {
			out.Rows[j] = result.Row{Contender: m.Name, Samples: []result.Sample{}}
			place, ok := places[m.Name]
			if !ok {
				place = len(f.names)
				places[m.Name] = place
				f.names = append(f.names, m.Name)
				f.sessions = append(f.sessions, nil)
			}
			f.sessions[place] = append(f.sessions[place], &session{
				scenario: s, member: m, row: &out.Rows[j],
			})
		}
		f.out = append(f.out, out)
	}
	return f
}

// lives cuts the rounds into lives of nearly the same length, of at most life
// rounds each; with 0 there is one. A life is where one begins and the next does.
func lives(rounds, life int) [][2]int {
	if life <= 0 {
		life = rounds
	}
	n := (rounds + life - 1) / life
	out := make([][2]int, n)
	for i := range out {
		out[i] = [2]int{rounds * i / n, rounds * (i + 1) / n}
	}
	return out
}

// measure runs a block of scenarios, a life of all servers after the other: what a
// process happens to get, above all where its memory and that of its sockets lies,
// is in all its windows, and no number of them tells of it. In the last life there is
// a window each under strace. The error is the context's.
func (r *runner) measure(ctx context.Context, block []Scenario) ([]result.Scenario, error) {
	f := r.enter(block)
	all := lives(f.rounds, r.cfg.Life)
	for i, life := range all {
		err := r.live(ctx, f, i, life)
		if err == nil && i == len(all)-1 {
			err = r.traceAll(ctx, f)
		}
		for _, sessions := range f.sessions {
			for _, s := range sessions {
				s.finish(ctx, s.close(ctx))
			}
		}
		if err != nil {
			return f.out, err
		}
	}
	return f.out, nil
}

// live starts the servers that have not failed, gives each a window to warm up, and
// runs the rounds of that life.
func (r *runner) live(ctx context.Context, f *field, number int, life [2]int) error {
	for _, i := range order(f.names, number) { // who comes first finds another memory than who comes last
		for _, s := range inTurns(f.sessions[i], number) {
			if s.row.Failure == "" {
				r.step(s.scenario.ID+": starting "+s.member.Name, 0)
				err := s.start(ctx, r.cfg)
				if err == nil {
					_, err = s.run(ctx, warming(s.scenario.window(r.cfg.Window)))
				}
				s.finish(ctx, err)
			}
			r.done += r.costOpen(s.scenario)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	for round := life[0]; round < life[1]; round++ {
		for _, i := range order(f.names, round) {
			for _, s := range inTurns(f.sessions[i], round) {
				window := s.scenario.window(r.cfg.Window)
				if s.open {
					r.step(fmt.Sprintf("%s: round %d of %d, %s", s.scenario.ID, round+1, f.rounds, s.member.Name), 0)
					s.finish(ctx, s.sample(ctx, round, window))
				}
				r.done += r.costWindow(s.scenario)
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// inTurns is the sessions of one contender, every other time the other way round.
func inTurns(sessions []*session, number int) []*session {
	sessions = slices.Clone(sessions)
	if number%2 == 1 {
		slices.Reverse(sessions)
	}
	return sessions
}

// traceAll counts the syscalls of all that are open, where they are counted.
func (r *runner) traceAll(ctx context.Context, f *field) error {
	for _, sessions := range f.sessions {
		for _, s := range sessions {
			if s.open && r.traces(s.scenario) {
				r.step(s.scenario.ID+": syscalls of "+s.member.Name, 0)
				failure, untold := s.trace(ctx, tracing(s.scenario.window(r.cfg.Window)))
				s.finish(ctx, failure)
				if untold != nil && ctx.Err() == nil {
					r.note("%s: no syscalls of %s: %v", s.scenario.ID, s.member.Name, untold)
				}
			}
			r.done += r.costTrace(s.scenario)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// density weighs the contenders one after the other: there is nothing to
// interleave, memory does not hurry. The error is the context's.
func (r *runner) density(ctx context.Context, block []Scenario) ([]result.Scenario, error) {
	f := r.enter(block)
	for _, sessions := range f.sessions {
		for _, s := range sessions {
			r.step(s.scenario.ID+": "+s.member.Name, 0)
			err := s.start(ctx, r.cfg)
			for _, conns := range s.scenario.Points {
				if err != nil {
					break
				}
				var point result.DensityPoint
				if point, err = s.weigh(ctx, conns); err == nil {
					s.row.Density = append(s.row.Density, point)
				}
			}
			s.finish(ctx, err)
			s.finish(ctx, s.close(ctx))
			r.done += r.costOpen(s.scenario)
			if ctx.Err() != nil {
				return f.out, ctx.Err()
			}
		}
	}
	return f.out, nil
}

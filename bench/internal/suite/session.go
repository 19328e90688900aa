package suite

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/load"
	"github.com/stepio-go/stepio/bench/internal/measure"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// How long the processes may take. Generous: what counts is that nothing hangs.
const (
	listenBound = 10 * time.Second // for a server to say where it listens
	openBound   = 90 * time.Second // for the client to open its connections
	slackBound  = 90 * time.Second // for a window, over its length: the client itself gives up sooner
	heapBound   = 30 * time.Second // for a full collection
	crashGrace  = time.Second      // for a server to be gone after its client saw it go
)

const (
	// A datagram that counts as lost may only have been late, because strace slows
	// the server down: then it was served without being counted. With more than one
	// in lostBound of those, a window does not say how many calls a request takes.
	lostBound     = 50
	traceAttempts = 3
	// closeGrace is how long a server may take to see a connection's end.
	closeGrace = 20 * time.Millisecond
)

// A session is one contender's server and client in one scenario.
type session struct {
	scenario *Scenario
	member   member
	row      *result.Row
	server   *measure.Process
	client   *measure.Process
	mute     bool // the server takes no commands
	open     bool // neither failed nor closed
}

// start starts both processes and opens the connections.
func (s *session) start(ctx context.Context, cfg *Config) error {
	var err error
	command := s.member.commands[s.scenario.Service]
	if s.server, err = measure.StartProcess(command.args, measure.Options{
		CPUs: cfg.ServerCores, Mute: command.mute,
	}); err != nil {
		return err
	}
	s.mute = command.mute
	line, err := s.server.Receive(ctx, cmp.Or(cfg.listen, listenBound))
	if err != nil {
		if said := s.server.Stderr(); errors.Is(err, measure.ErrTimeout) && said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return fmt.Errorf("the server does not listen: %w", err)
	}
	addr, ok := contend.Listening(string(line))
	if !ok {
		return fmt.Errorf("the server said %q and not where it listens", line)
	}
	if s.client, err = measure.StartProcess(cfg.Load, measure.Options{CPUs: cfg.ClientCores}); err != nil {
		return err
	}
	s.open = true
	spec := s.scenario.spec(addr)
	_, err = s.ask(ctx, load.Command{Op: "open", Spec: spec}, openBound)
	if err == nil && s.scenario.Idle > 0 && s.scenario.Points == nil {
		_, err = s.ask(ctx, load.Command{Op: "idle", Spec: spec, Idle: s.scenario.Idle}, openBound)
	}
	return err
}

// ask has the client do something. Its error names who failed: a server that is
// gone, or what the client says of it.
func (s *session) ask(ctx context.Context, command load.Command, bound time.Duration) (load.Window, error) {
	reply, err := s.exchange(ctx, command, bound)
	if err == nil && reply.Error == "" {
		return reply.Window, nil
	}
	if ctx.Err() != nil {
		return load.Window{}, ctx.Err()
	}
	if err == nil {
		err = errors.New(reply.Error)
	} else {
		err = fmt.Errorf("the client: %w", err)
	}
	if gone := s.server.Ended(crashGrace); gone != nil {
		return load.Window{}, fmt.Errorf("the server %w (seen by the client: %w)", gone, err)
	}
	if said := s.server.Stderr(); said != "" {
		err = fmt.Errorf("%w (the server said: %s)", err, said)
	}
	return load.Window{}, err
}

func (s *session) exchange(ctx context.Context, command load.Command, bound time.Duration) (load.Reply, error) {
	var reply load.Reply
	line, err := json.Marshal(command)
	if err != nil {
		return reply, err
	}
	if err := s.client.Send(append(line, '\n')); err != nil {
		if gone := s.client.Ended(crashGrace); gone != nil {
			return reply, gone
		}
		return reply, err
	}
	answer, err := s.client.Receive(ctx, bound)
	if err != nil {
		return reply, err
	}
	return reply, json.Unmarshal(answer, &reply)
}

// run takes one window.
func (s *session) run(ctx context.Context, length time.Duration) (load.Window, error) {
	window, err := s.ask(ctx, load.Command{
		Op: "run", Window: length, PID: s.server.PID(),
	}, length+slackBound)
	if err == nil && window.Requests <= 0 {
		err = fmt.Errorf("no %s was done in %v", s.scenario.Unit, length)
	}
	return window, err
}

// sample takes the window of a round.
func (s *session) sample(ctx context.Context, round int, length time.Duration) error {
	window, err := s.run(ctx, length)
	if err != nil {
		return err
	}
	rss, err := measure.RSS(s.server.PID())
	if err != nil {
		return err
	}
	latency, err := hdrhistogram.Decode(window.Latency)
	if err != nil {
		return fmt.Errorf("the client's histogram: %w", err)
	}
	s.row.Samples = append(s.row.Samples, result.Sample{
		Round:      round,
		Requests:   window.Requests,
		Elapsed:    window.Elapsed,
		CPU:        window.CPU,
		Client:     window.Client,
		P50:        latency.ValueAtPercentile(50),
		P99:        latency.ValueAtPercentile(99),
		P999:       latency.ValueAtPercentile(99.9),
		Lost:       window.Lost,
		ServerRSS:  rss,
		LatencyHDR: window.Latency,
	})
	return nil
}

// trace takes a window under strace: the calls by name of a request. The first
// error is the contender's, the second of the tracing.
func (s *session) trace(ctx context.Context, length time.Duration) (failure, untold error) {
	for range traceAttempts {
		tracer, err := measure.StartTrace(ctx, s.server.PID())
		if err != nil {
			return nil, err
		}
		window, failure := s.run(ctx, length)
		if s.scenario.Kind == load.Churn {
			// The server has yet to close the last connections.
			untold = pause(ctx, closeGrace)
		}
		calls, err := tracer.Stop()
		if err := errors.Join(untold, err); failure != nil || err != nil {
			return failure, err
		}
		if window.Lost*lostBound > window.Requests {
			continue
		}
		s.row.Syscalls = make(map[string]float64, len(calls))
		for name, n := range calls {
			s.row.Syscalls[name] = float64(n) / float64(window.Requests)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("more than one datagram in %d was lost in each of %d windows", lostBound, traceAttempts)
}

// weigh brings the idle connections to that number and reads the memory of the
// server once it is quiet.
func (s *session) weigh(ctx context.Context, conns int) (result.DensityPoint, error) {
	point := result.DensityPoint{Conns: conns}
	if _, err := s.ask(ctx, load.Command{Op: "idle", Idle: conns}, openBound); err != nil {
		return point, err
	}
	var err error
	if point.Go, err = s.heap(ctx); err != nil {
		return point, fmt.Errorf("the server's heap: %w", err)
	}
	point.RSS, err = settle(ctx, s.server.PID())
	return point, err
}

// heap has the server collect its garbage and returns what is left, -1 where
// there is no Go heap to be asked for.
func (s *session) heap(ctx context.Context) (int64, error) {
	if s.mute {
		return -1, nil
	}
	if err := s.server.Send([]byte("heap\n")); err != nil {
		return 0, err
	}
	line, err := s.server.Receive(ctx, heapBound)
	if err != nil {
		return 0, err
	}
	number, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "heap ")
	if !ok {
		return 0, fmt.Errorf("the server said %q instead", line)
	}
	return strconv.ParseInt(number, 10, 64)
}

// settle reads the resident memory of a process until it stays the same.
func settle(ctx context.Context, pid int) (int64, error) {
	const (
		apart = 50 * time.Millisecond
		same  = 4  // readings in a row
		most  = 40 // readings in all; what still moves then is taken as it is
	)
	last, streak := int64(-1), 0
	for range most {
		rss, err := measure.RSS(pid)
		if err != nil {
			return 0, err
		}
		if rss == last {
			streak++
		} else {
			streak = 1
		}
		if last = rss; streak == same {
			break
		}
		if err := pause(ctx, apart); err != nil {
			return 0, err
		}
	}
	return last, nil
}

// pause waits; its error is the context's.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish takes note of how something ended: a failure ends the session and
// stands in its row. An interruption is nobody's failure.
func (s *session) finish(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	s.open = false
	if s.row.Failure == "" {
		s.row.Failure = err.Error()
	}
	s.stop(ctx)
}

// close ends the session. An interrupted run has no time for ceremony.
func (s *session) close(ctx context.Context) error {
	var err error
	if s.open && ctx.Err() == nil {
		// With resets, before the server sees its own end: no TIME_WAIT stays behind.
		_, err = s.ask(ctx, load.Command{Op: "close"}, openBound)
	}
	s.open = false
	s.stop(ctx)
	return err
}

// stop ends the processes that there are.
func (s *session) stop(ctx context.Context) {
	for _, p := range []*measure.Process{s.client, s.server} {
		if p != nil {
			if ctx.Err() != nil {
				p.Kill()
			}
			p.Stop()
		}
	}
}

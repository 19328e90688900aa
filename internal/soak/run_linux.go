package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// soak is one run.
type soak struct {
	config
	out     io.Writer // progress
	server  *child
	control *child
	traffic *traffic
	record  *record

	begun    time.Time
	marks    []time.Duration // restarts
	restarts restarts
	empty    sample // of the server before there was a service
	base     sample // of the service before there was traffic
	quiet    sample // of the service after the traffic
	stopped  sample // of the server after the service
	failed   int
	failures []string // the servers', then the clients', the first few of each

	busy, serverCPU, clientCPU time.Duration // at the last sample
	last                       time.Time
	lastFailed                 int
}

// run makes the run, and reports whether everything held. An error is of the
// soak itself, or of a server that has crashed.
func (c config) run(ctx context.Context, out io.Writer) (good bool, err error) {
	s := &soak{config: c, out: out}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "soak-"); err != nil {
			return false, err
		}
	} else if err = os.MkdirAll(s.dir, 0o777); err != nil {
		return false, err
	}
	fmt.Fprintf(out, "soak for %v, seed %d, results in %s\n", s.length, s.seed, s.dir)
	if s.control, err = startChild(roleControl); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.control.stop()) }()
	if s.server, err = startChild(roleServer, s.env...); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.server.stop()) }()
	if err := s.prepare(); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.record.close()) }()
	interrupted, err := s.drive(ctx)
	if err != nil {
		return false, err
	}
	leaks, err := s.wind()
	if err != nil {
		return false, err
	}
	return s.report(leaks, interrupted)
}

// prepare starts the service, and takes the samples that its end is compared
// with.
func (s *soak) prepare() error {
	at, err := s.control.line()
	if err != nil {
		return err
	}
	control, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	before, err := s.server.order(order{Do: doSample})
	if err != nil {
		return err
	}
	s.empty = before.Sample
	started, err := s.server.order(order{Do: doStart, Loops: s.loops, Seed: s.seed})
	if err != nil {
		return err
	}
	s.base = started.Sample
	s.traffic = newTraffic(s.seed, started.Addrs, control, s.rate)
	s.record, err = newRecord(s.dir, s.traffic.kinds)
	return err
}

// drive lets there be traffic, samples and restarts.
func (s *soak) drive(ctx context.Context) (interrupted bool, err error) {
	if _, err := s.server.order(order{Do: doBegin}); err != nil {
		return false, err
	}
	s.traffic.start()
	defer s.traffic.stop()
	s.begun, s.last = time.Now(), time.Now()
	if s.clientCPU, err = processorTime(); err != nil {
		return false, err
	}
	if s.busy, err = machineBusy(); err != nil {
		return false, err
	}
	s.serverCPU = s.base.CPU
	ticks, restarts := time.NewTicker(s.interval), time.NewTicker(s.restart)
	defer ticks.Stop()
	defer restarts.Stop()
	end := time.NewTimer(s.length)
	defer end.Stop()
	polls := time.NewTicker(100 * time.Millisecond)
	defer polls.Stop()
	for {
		select {
		case <-ticks.C:
			if err := s.sample(); err != nil {
				return false, err
			}
		case <-restarts.C:
			// The traffic shall not end within a restart, which would hide how it ends.
			late := s.length-time.Since(s.begun) < s.restart/2
			if s.traffic.epoch.Load()%2 == 0 && !late {
				if err := s.beginRestart(); err != nil {
					return false, err
				}
			}
		case <-polls.C:
			if s.traffic.epoch.Load()%2 == 1 {
				if err := s.awaitRestart(); err != nil {
					return false, err
				}
			}
		case <-end.C:
			return false, nil
		case <-ctx.Done():
			return true, nil
		}
	}
}

func (s *soak) beginRestart() error {
	s.traffic.epoch.Add(1)
	s.marks = append(s.marks, time.Since(s.begun))
	_, err := s.server.order(order{Do: doRestart, Grace: s.grace})
	return err
}

// awaitRestart ends the epoch of a restart when that is done.
func (s *soak) awaitRestart() error {
	a, err := s.server.order(order{Do: doSample})
	if err != nil {
		return err
	}
	if !a.Sample.Restarts.Underway {
		s.traffic.epoch.Add(1)
	}
	return nil
}

// sample takes a sample and prints it.
func (s *soak) sample() error {
	a, err := s.server.order(order{Do: doSample})
	if err != nil {
		return err
	}
	clientCPU, err := processorTime()
	if err != nil {
		return err
	}
	busy, err := machineBusy()
	if err != nil {
		return err
	}
	now := time.Now()
	share := func(d time.Duration) float64 { return d.Seconds() / now.Sub(s.last).Seconds() }
	w := row{at: now.Sub(s.begun), server: a.Sample}
	w.serverCP, w.clientCP = share(a.Sample.CPU-s.serverCPU), share(clientCPU-s.clientCPU)
	w.othersCP = max(0, share(busy-s.busy)-w.serverCP-w.clientCP)
	n := 0
	for _, k := range s.traffic.kinds {
		l := k.times.take()
		n += l.n
		w.times = append(w.times, l)
	}
	w.answers = float64(n) / now.Sub(s.last).Seconds()
	s.last, s.busy, s.serverCPU, s.clientCPU = now, busy, a.Sample.CPU, clientCPU
	if err := s.record.add(w); err != nil {
		return err
	}
	failed := s.traffic.failures.count() + a.Failed
	fmt.Fprintln(s.out, w.progress(s.traffic.kinds, failed))
	if failed > s.lastFailed {
		for _, f := range append(s.traffic.failures.texts(), a.Failures...) {
			fmt.Fprintln(s.out, "   ", f)
		}
	}
	s.lastFailed = failed
	return nil
}

// wind waits until the servers are idle, and stops them. Left must be what was
// there before.
func (s *soak) wind() (leaks []verdict, err error) {
	if s.quiet, _, err = s.settled(order{Do: doQuiet}, s.base); err != nil {
		return nil, err
	}
	s.restarts = s.quiet.Restarts
	dump, err := s.server.order(order{Do: doDump})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "dump.txt"), []byte(dump.Dump), 0o666); err != nil {
		return nil, err
	}
	if _, err := s.server.order(order{Do: doStop, Grace: s.settle}); err != nil {
		return nil, err
	}
	// A goroutine that was waited for may need a moment yet to be gone.
	stopped, a, err := s.settled(order{Do: doSample}, s.empty)
	if err != nil {
		return nil, err
	}
	s.stopped = stopped
	s.failed, s.failures = a.Failed+s.traffic.failures.count(), append(a.Failures, s.traffic.failures.texts()...)
	same := func(what string, before, after int) {
		leaks = append(leaks, verdict{what: what, figure: fmt.Sprintf("%d before, %d after", before, after), bad: after > before})
	}
	same("tasks", s.base.Tasks, s.quiet.Tasks)
	same("registered descriptors", s.base.Registered, s.quiet.Registered)
	same("descriptors", s.base.FDs, s.quiet.FDs)
	same("goroutines", s.base.Goroutines, s.quiet.Goroutines)
	same("stopped: descriptors", s.empty.FDs, s.stopped.FDs)
	same("stopped: registered", s.empty.Registered, s.stopped.Registered)
	same("stopped: goroutines", s.empty.Goroutines, s.stopped.Goroutines)
	return leaks, nil
}

// settled repeats an order until no more is left than there was before, or for
// as long as the servers have to settle.
func (s *soak) settled(o order, before sample) (sample, answer, error) {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for until := time.Now().Add(s.settle); ; <-look.C {
		a, err := s.server.order(o)
		now := a.Sample
		idle := now.Tasks <= before.Tasks && now.FDs <= before.FDs &&
			now.Registered <= before.Registered && now.Goroutines <= before.Goroutines
		if err != nil || idle || time.Now().After(until) {
			return now, a, err
		}
	}
}

// report writes and prints what the run comes to, and draws the plot.
func (s *soak) report(leaks []verdict, interrupted bool) (good bool, err error) {
	var b strings.Builder
	fmt.Fprintf(&b, "soak for %v, seed %d, %d loops, rate %.0f, %d restarts (%d of them had to destroy tasks of slow peers)\n\n",
		s.length, s.seed, s.loops, s.rate, s.restarts.Done, s.restarts.Cut)
	fmt.Fprintf(&b, "%-10s %10s %10s %9s %9s %9s %9s %6s\n",
		"traffic", "asked", "answered", "opened", "finished", "reset", "cut", "lost")
	answered := int64(0)
	for _, k := range s.traffic.kinds {
		fmt.Fprintf(&b, "%-10s %10d %10d %9d %9d %9d %9d %6d\n", k.name, k.asked.Load(), k.answered.Load(),
			k.opened.Load(), k.finished.Load(), k.reset.Load(), k.cut.Load(), k.lost.Load())
		answered += k.answered.Load()
	}
	var server, client, others []float64
	for _, w := range s.record.rows {
		server, client, others = append(server, w.serverCP), append(client, w.clientCP), append(others, w.othersCP)
	}
	fmt.Fprintf(&b, "\n%d answers; processors, median: %.2f server, %.2f clients and control's, %.2f others\n\n",
		answered, median(server), median(client), median(others))
	verdicts := append(s.record.flatness(s.length, s.anyP99), leaks...)
	verdicts = append(verdicts, verdict{what: "failures", figure: fmt.Sprint(s.failed), bad: s.failed > 0})
	if interrupted {
		verdicts = append(verdicts, verdict{what: "interrupted", figure: "the run was not as long as it was to be", bad: true})
	}
	good = true
	for _, v := range verdicts {
		fmt.Fprintln(&b, v)
		good = good && !v.bad
	}
	for _, f := range s.failures {
		fmt.Fprintln(&b, "   ", f)
	}
	svg := filepath.Join(s.dir, "soak.svg")
	err = errors.Join(
		os.WriteFile(filepath.Join(s.dir, "report.txt"), []byte(b.String()), 0o666),
		os.WriteFile(svg, []byte(s.record.plot(fmt.Sprintf("soak for %v, seed %d", s.length, s.seed), s.length, s.marks)), 0o666))
	fmt.Fprintf(s.out, "\n%s\nplot: %s\n", b.String(), svg)
	return good, err
}

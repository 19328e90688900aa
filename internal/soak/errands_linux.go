package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// Errands are tasks that have no connection: ordinary goroutines have them run
// on the loops, by stepio.Call, and give up some of them before they have ended.

// errand is a race of a timer and a job, beside another timer. It stands for
//
//	co_await all(any(sleep(short), pool.submit(loop, work)), sleep(long));
type errand struct {
	sm.Returns[int]
	race  sm.Any
	both  sm.All
	long  nap
	begun bool
}

func newErrand(pool *stepio.Pool, short, long, work time.Duration) *errand {
	e := &errand{long: nap{length: long}}
	job := new(stepio.Job[int])
	job.Start(pool, func() (int, error) {
		for end := clock() + work; clock() < end; {
		}
		return 1, nil
	})
	e.race.Start(&nap{length: short}, job)
	return e
}

func (e *errand) Step(t *sm.Task) sm.Await {
	if !e.begun {
		e.begun = true
		e.both.Start(&e.race, &e.long)
	}
	if a := e.both.Step(t); a.Pending() {
		return a
	}
	if err := e.both.Err(); err != nil {
		return e.Fail(err)
	}
	return e.Return(e.race.Winner())
}

func (e *errand) Close() error { return e.both.Close() }

// nap sleeps.
type nap struct {
	length time.Duration
	until  time.Time
}

func (n *nap) Step(t *sm.Task) sm.Await {
	if n.until.IsZero() {
		n.until = t.Now().Add(n.length)
	}
	return t.SleepUntil(n.until)
}

const (
	errandCallers = 4
	errandEvery   = 40 * time.Millisecond // a caller's
)

// errands are the callers of a generation.
type errands struct {
	quit    chan struct{}
	callers sync.WaitGroup
	once    sync.Once
}

// startErrands has errands run on the loops of a generation until endErrands.
func (g *generation) startErrands(s *service, rnd *rand.Rand) {
	for range errandCallers {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		g.errands.callers.Go(func() {
			tick := time.NewTicker(errandEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					if err := g.runErrand(s, rnd); err != nil {
						s.failures.add("errand: %v", err)
					}
				case <-g.errands.quit:
					return
				}
			}
		})
	}
}

// endErrands returns when the last errand has ended or was given up.
func (g *generation) endErrands() {
	g.errands.once.Do(func() { close(g.errands.quit) })
	g.errands.callers.Wait()
}

func (g *generation) runErrand(s *service, rnd *rand.Rand) error {
	within := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) }
	ctx, cancel := context.WithTimeout(context.Background(), within(30*time.Millisecond))
	defer cancel()
	e := newErrand(s.pool, within(10*time.Millisecond), within(20*time.Millisecond), within(200*time.Microsecond))
	winner, err := stepio.Call(ctx, g.group.Next(), e)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil
	case err != nil:
		return err
	case winner != 0 && winner != 1:
		return errors.New("the winner of a race of two is neither")
	}
	return nil
}

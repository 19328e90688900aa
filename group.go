package stepio

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
)

// A Group is N loops, each running on a goroutine of its own, and so, as long as
// there are processors, on a thread of its own. The goroutines are not locked to
// their threads: the Go scheduler preempts a goroutine every 10 ms, and a locked
// one needs another thread to be woken each time (docs/internals.md).
//
// A connection stays on the loop that it was accepted by, or handed to: two ways
// to spread them are a listener a loop on one address, with
// ListenOptions.ReusePort, and one acceptor that posts descriptors to Next.
//
// A loop that ends, because it fails, is stopped or was shut down by itself, stops
// the others: a server that has lost some of its loops is not left running. While
// the Group shuts down, the others end in order. Join returns the error.
//
// Its methods may be called from any goroutine; Each, Shutdown and Join, which wait
// for the loops, not from one of these.
type Group struct {
	loops []*Loop
	errs  []error // of each Run, after running
	turn  atomic.Uint64

	running sync.WaitGroup
	ending  atomic.Bool // Shutdown was called: a loop that ends has done so in order
	closing sync.Once
	err     error // of Join
}

// errLoopGoexit is the error of a loop whose goroutine was ended.
var errLoopGoexit = errors.New("stepio: function called runtime.Goexit on a loop")

// NewGroup makes n loops and runs them; n <= 0 means one a processor
// (runtime.GOMAXPROCS). The error is NewLoop's.
//
// A program whose loops have time to spare wants one processor of the Go scheduler
// more than it has loops, also where the machine has no more:
//
//	g, err := stepio.NewGroup(0)
//	...
//	runtime.GOMAXPROCS(g.Len() + 1)
//
// While one is idle, the Go runtime leaves alone a loop that waits for events, for
// up to 10 ms a wait. Else it takes the loop's processor in each wait and gives it
// back after it, which with 1,000 requests a second costs more than the requests
// do (docs/internals.md). Where every message makes a hop through a Pool it is better
// left out, and on a single CPU under SCHED_FIFO it must be: there the Go runtime's
// own threads wait for one another for ever.
func NewGroup(n int, options ...LoopOption) (*Group, error) {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	g := &Group{errs: make([]error, n)}
	for range n {
		l, err := NewLoop(options...)
		if err != nil {
			for _, l := range g.loops {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		g.loops = append(g.loops, l)
	}
	for i, l := range g.loops {
		g.running.Go(func() {
			defer func() {
				if !g.ending.Load() {
					g.Stop()
				}
			}()
			g.errs[i] = errLoopGoexit // until Run has returned
			g.errs[i] = l.Run()
		})
	}
	return g, nil
}

// Len is the number of loops.
func (g *Group) Len() int { return len(g.loops) }

// Next returns the loops one after the other, round robin.
func (g *Group) Next() *Loop {
	return g.loops[(g.turn.Add(1)-1)%uint64(len(g.loops))]
}

// Each calls fn for every loop, on that loop, one after the other, and returns
// when the last has returned: to listen on each, for instance. The first error
// ends it and is returned: fn's, a *sm.PanicError when fn panics, ErrLoopClosed
// after Stop.
func (g *Group) Each(fn func(i int, l *Loop) error) error {
	for i, l := range g.loops {
		done := make(chan error, 1)
		if err := l.Post(func() {
			err := errLoopGoexit // until fn has returned
			defer func() { done <- err }()
			err = guarded(func() error { return fn(i, l) })
		}); err != nil {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// guarded calls fn and makes a panic its error.
func guarded(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newPanicError(v)
		}
	}()
	return fn()
}

// Stop stops every loop: see Loop.Stop.
func (g *Group) Stop() {
	for _, l := range g.loops {
		l.Stop()
	}
}

// Join waits until every loop has stopped or shut down, and closes them: what is still
// parked is destroyed. It returns what any Run or Close has failed with, at
// every call.
func (g *Group) Join() error {
	g.closing.Do(func() {
		g.running.Wait()
		g.err = errors.Join(g.errs...)
		for _, l := range g.loops {
			g.err = errors.Join(g.err, l.Close())
		}
	})
	return g.err
}

package stepio

import "sync"

// A Pool runs functions that block or take long on goroutines of its own, off
// the loops. A task submits with the frame Job and is resumed on its loop.
//
// The queue is first in, first out, and bounded. When it is full, a Job's task
// waits in line behind it, which takes no memory but the task's own; TrySubmit
// answers ErrQueueFull at once.
//
// Its methods may be called from any goroutine.
type Pool struct {
	mu      sync.Mutex
	wanted  sync.Cond
	line    line // the queue, and behind its first bound the tasks that wait
	bound   int
	idle    int // workers that wait for work
	stopped bool
	running sync.WaitGroup
}

// errand is what a pool runs: a link of its line.
type errand struct {
	next, prev *errand
	work       work
}

// work is called by the pool: start under its lock, when a worker takes it, and
// do on that worker.
type work interface {
	start()
	do()
}

// line is a first in, first out list of errands that can be left anywhere.
type line struct {
	first, last *errand
	length      int
}

func (l *line) push(e *errand) {
	e.prev, e.next = l.last, nil
	if l.last == nil {
		l.first = e
	} else {
		l.last.next = e
	}
	l.last = e
	l.length++
}

func (l *line) remove(e *errand) {
	if e.prev == nil {
		l.first = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.last = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.next, e.prev = nil, nil
	l.length--
}

// NewPool starts a pool of workers goroutines, whose queue holds queue
// functions that no worker has taken yet. It panics when either is not
// positive.
func NewPool(workers, queue int) *Pool {
	if workers <= 0 || queue <= 0 {
		panic("stepio: NewPool: workers and queue must be positive")
	}
	p := &Pool{bound: queue}
	p.wanted.L = &p.mu
	for range workers {
		p.running.Go(p.worker)
	}
	return p
}

// worker runs errands until the pool is stopped and its line is empty. One that
// ends its goroutine (runtime.Goexit) is replaced.
func (p *Pool) worker() {
	finished := false
	defer func() {
		if !finished {
			p.running.Go(p.worker)
		}
	}()
	for e := p.next(); e != nil; e = p.next() {
		run(e.work)
	}
	finished = true
}

// run keeps a panic from ending the worker.
func run(w work) {
	defer func() {
		if v := recover(); v != nil {
			logReport(nil, newPanicError(v))
		}
	}()
	w.do()
}

// next waits for an errand and takes it; nil when there will be none.
func (p *Pool) next() *errand {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.line.first == nil {
		if p.stopped {
			return nil
		}
		p.idle++
		p.wanted.Wait()
		p.idle--
	}
	e := p.line.first
	p.line.remove(e)
	e.work.start() // under the lock: from here on it can't be withdrawn
	return e
}

// submit puts e in line. With patience it does so however long the line is.
func (p *Pool) submit(e *errand, patient bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return ErrPoolClosed
	}
	if !patient && p.line.length >= p.bound {
		return ErrQueueFull
	}
	p.line.push(e)
	if p.idle > 0 {
		p.wanted.Signal()
		handed.Add(1)
	}
	return nil
}

// withdraw takes e out of the line, unless queued says that it has left it.
func (p *Pool) withdraw(e *errand, queued func() bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !queued() {
		return false
	}
	p.line.remove(e)
	return true
}

// plain is a function that nobody waits for.
type plain struct {
	errand
	fn func()
}

func (p *plain) start() {}
func (p *plain) do()    { p.fn() }

// TrySubmit has fn run on a worker. Nobody waits for it: see Job for that. A
// panic in fn is logged and ends nothing.
//
// The result is one of: nil, and fn runs once; ErrQueueFull; ErrPoolClosed.
func (p *Pool) TrySubmit(fn func()) error {
	if fn == nil {
		panic("stepio: Pool.TrySubmit: nil function")
	}
	e := &plain{fn: fn}
	e.errand.work = e
	return p.submit(&e.errand, false)
}

// Stop ends the taking of work: what is submitted afterwards is answered with
// ErrPoolClosed. What is in line already runs. Stopping twice is stopping once.
func (p *Pool) Stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.wanted.Broadcast()
}

// Join waits until the pool is stopped and all its work is done. No goroutine
// is left then. A function that the pool runs must not call it: it would wait
// for itself.
func (p *Pool) Join() { p.running.Wait() }

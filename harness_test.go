//go:build linux || darwin

package stepio

import (
	"bytes"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// patience bounds everything a test waits for.
const patience = 10 * time.Second

// world is a loop in check mode. A test turns it by hand, on its own goroutine,
// with until and alongside; or lets it Run, with run. What the loop reports has
// to be asked for with reported, or the test fails.
type world struct {
	*Loop
	t       testing.TB
	faults  *faults // nil: the kernel is used directly
	reports []error
	conns   []*TCPConn
	stopped chan error // of run
}

// worlds are the loops that are not closed yet.
var worlds worldRegistry

type worldRegistry struct {
	mu   sync.Mutex
	open map[*world]string
}

func (r *worldRegistry) add(w *world) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		r.open = make(map[*world]string)
	}
	r.open[w] = w.t.Name()
}

func (r *worldRegistry) remove(w *world) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, w)
}

func (r *worldRegistry) left() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range r.open {
		names = append(names, name)
	}
	return names
}

var onPoller = flag.String("poller", "", "what the tests' loops run on: a back end of TestConformance; empty: the system's own")

// testPoller is the poller that the tests run on.
func testPoller(batch int) (poller, error) {
	for _, b := range kernels {
		if b.name == *onPoller {
			return b.poller(batch)
		}
	}
	if *onPoller != "" {
		return nil, fmt.Errorf("-poller: no back end is called %q", *onPoller)
	}
	return newPoller(batch)
}

func newTestLoop(t testing.TB, options ...LoopOption) *world {
	w := &world{t: t}
	options = append([]LoopOption{WithChecks(), WithReport(w.report)}, options...)
	options = append(options, func(c *loopConfig) {
		if c.kernel == nil && c.poller == nil {
			c.poller = testPoller
		}
	})
	l, err := NewLoop(options...)
	require.NoError(t, err)
	w.Loop = l
	worlds.add(w)
	t.Cleanup(w.end)
	return w
}

// newFaultyLoop is newTestLoop with a kernel that fails on demand.
func newFaultyLoop(t testing.TB, options ...LoopOption) *world {
	f := newFaults(t)
	w := newTestLoop(t, append(options, func(c *loopConfig) { c.kernel = f })...)
	w.faults = f
	return w
}

func (w *world) report(task *sm.Task, err error) {
	if task != nil {
		err = fmt.Errorf("%s: %w", task.Chain(), err)
	}
	w.reports = append(w.reports, err)
}

// reported takes what was reported since the last call.
func (w *world) reported() []error {
	errs := w.reports
	w.reports = nil
	return errs
}

// end closes the loop and what the harness has opened on it.
func (w *world) end() {
	if w.stopped != nil {
		w.Stop()
		w.joined()
	}
	assert.NoError(w.t, w.Close())
	assert.Zero(w.t, w.Tasks(), "tasks left")
	for _, c := range w.conns {
		assert.NoError(w.t, c.Close())
	}
	for _, err := range w.reports {
		w.t.Errorf("not expected: report of %v", err)
	}
	worlds.remove(w)
}

// run lets the loop run on a goroutine of its own until the test ends.
func (w *world) run() {
	stopped := make(chan error, 1)
	w.stopped = stopped
	go func() { stopped <- w.Run() }()
}

// joined is the result of run.
func (w *world) joined() error {
	stopped := w.stopped
	w.stopped = nil
	select {
	case err := <-stopped:
		return err
	case <-time.After(patience):
		require.FailNow(w.t, "Run does not return")
		return nil
	}
}

// until turns the loop until cond is true.
func (w *world) until(what string, cond func() bool) {
	w.t.Helper()
	over := false
	guard := time.AfterFunc(patience, func() { _ = w.Post(func() { over = true }) })
	defer guard.Stop()
	for !cond() {
		require.NoError(w.t, w.turn())
		if over {
			var tasks bytes.Buffer
			_ = w.Dump(&tasks)
			require.FailNow(w.t, "waited in vain: "+what, "reports %v, %s", w.reports, tasks.String())
		}
	}
}

// ended turns the loop until the tasks have ended.
func (w *world) ended(tasks ...*sm.Task) {
	w.t.Helper()
	w.until("the tasks have ended", func() bool {
		for _, task := range tasks {
			if !task.Ended() {
				return false
			}
		}
		return true
	})
}

// settle turns the loop until nothing is ready and no event is left.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		done := false
		require.NoError(w.t, w.Post(func() { done = true })) // the turn does not block
		require.NoError(w.t, w.turn())
		if done && !w.sched.Busy() && w.mail.empty() {
			return
		}
	}
	require.FailNow(w.t, "the loop does not come to rest")
}

// turns makes n turns, none of which blocks.
func (w *world) turns(n int) {
	w.t.Helper()
	for range n {
		require.NoError(w.t, w.Post(func() {}))
		require.NoError(w.t, w.turn())
	}
}

// idle turns the loop for d, as Run would.
func (w *world) idle(d time.Duration) {
	w.t.Helper()
	w.ended(w.Spawn(sleeper(time.Now().Add(d))))
}

// alongside runs fn, which acts as the peers, on a goroutine of its own, and
// turns the loop until it returns.
func (w *world) alongside(fn func()) {
	w.t.Helper()
	done := false
	go func() {
		defer func() { _ = w.Post(func() { done = true }) }()
		fn()
	}()
	w.until("the peers are done", func() bool { return done })
}

// spawn starts a task made of one function.
func (w *world) spawn(step func(t *sm.Task) sm.Await) *fake {
	f := &fake{step: step}
	f.task = w.Spawn(f)
	return f
}

// fake is a frame made of functions, so that a test says in its own body what
// a task does. It counts its calls.
type fake struct {
	step          func(t *sm.Task) sm.Await // nil: Park
	close         func() error
	err           error
	steps, closes int
	task          *sm.Task
}

func (f *fake) Step(t *sm.Task) sm.Await {
	f.steps++
	if f.closes > 0 {
		panic("fake: stepped after Close")
	}
	if f.step == nil {
		return sm.Park
	}
	return f.step(t)
}

func (f *fake) Close() error {
	f.closes++
	if f.close == nil {
		return nil
	}
	return f.close()
}

func (f *fake) Err() error { return f.err }

// script is a fake that goes on to the next function when one answers Done.
func script(parts ...func(t *sm.Task) sm.Await) *fake {
	f, at := new(fake), 0
	f.step = func(t *sm.Task) sm.Await {
		for ; at < len(parts); at++ {
			if a := parts[at](t); a.Pending() {
				return a
			}
		}
		return sm.Done
	}
	return f
}

// sleeper is a frame that ends at a time.
func sleeper(when time.Time) *fake {
	return script(func(t *sm.Task) sm.Await { return t.SleepUntil(when) })
}

// once is a frame that waits once and keeps why the wait ended.
type once struct {
	await   sm.Await
	ready   sm.Dir
	woken   bool
	waitErr error
	steps   int
}

func (o *once) Step(t *sm.Task) sm.Await {
	o.steps++
	if o.steps == 1 {
		return o.await
	}
	o.ready, o.woken, o.waitErr = t.Ready(), t.Woken(), t.WaitErr()
	return sm.Done
}

// echoFrame is the echo of the package comment: it stands for
//
//	for (;;) { n = co_await sock.read(buf); if (!n) break; co_await sock.write(buf, n); }
type echoFrame struct {
	conn  *TCPConn
	out   WriteAll
	state echoState
}

type echoState uint8

const (
	echoReading echoState = iota
	echoWriting
)

func (e *echoFrame) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.conn.Read(t.Scratch())
			if err == ErrWouldBlock {
				return e.conn.Readable()
			}
			if err != nil {
				return sm.Done
			}
			e.out.Start(e.conn, t.Scratch()[:n])
			e.state = echoWriting
		case echoWriting:
			if a := e.out.Step(t); a.Pending() {
				return a
			}
			if e.out.Err() != nil {
				return sm.Done
			}
			e.state = echoReading
		default:
			panic(fmt.Sprintf("echoFrame.Step: state %d", e.state))
		}
	}
}

func (e *echoFrame) Close() error {
	_ = e.out.Close() // never fails
	return e.conn.Close()
}

package sm_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/stepio-go/stepio/sm"
)

// TestMain runs the tests and finds the goroutines that they leave behind.
func TestMain(m *testing.M) {
	flag.Parse()
	before := runtime.NumGoroutine()
	code := m.Run()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(code) // the fuzzing machinery has goroutines of its own
	}
	// A goroutine that has done its work may need a moment to be gone.
	for patience := time.Now().Add(2 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(patience) {
			fmt.Fprintf(os.Stderr, "%d goroutines before the tests, %d after them:\n", before, runtime.NumGoroutine())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			os.Exit(1)
		}
	}
	os.Exit(code)
}

// world is a scheduler with a virtual clock, virtual descriptors and check
// mode. What it reports has to be asked for with reported, or the test fails;
// so does a task that is left when the world is closed.
type world struct {
	*sm.Scheduler
	t       testing.TB
	reports []report
}

type report struct {
	err   error
	chain string // as it was when the report was made
}

func newWorld(t testing.TB) *world { return newWorldOf(t, sm.Config{}) }

func newWorldOf(t testing.TB, c sm.Config) *world {
	w := &world{t: t}
	c.Check = true
	if c.Report == nil {
		c.Report = func(task *sm.Task, err error) {
			w.reports = append(w.reports, report{err, task.Chain()})
		}
	}
	w.Scheduler = sm.NewScheduler(c)
	t.Cleanup(func() {
		w.Close()
		assert.Zero(t, w.Live(), "tasks left")
		for _, r := range w.reports {
			t.Errorf("not expected: report of %v from %s", r.err, r.chain)
		}
	})
	return w
}

// reported takes what was reported since the last call.
func (w *world) reported() []error {
	var errs []error
	for _, r := range w.reports {
		errs = append(errs, r.err)
	}
	w.reports = nil
	return errs
}

// turns runs n turns and returns how many steps they made.
func (w *world) turns(n int) (steps int) {
	for range n {
		steps += w.Turn()
	}
	return steps
}

// settle runs turns until nothing is ready.
func (w *world) settle() {
	for range 10_000 {
		if !w.Busy() {
			return
		}
		w.Turn()
	}
	w.t.Fatal("the tasks do not come to rest")
}

// fake is a frame made of functions, so that a test says in its own body what
// a task does. It counts its calls.
type fake struct {
	step          func(t *sm.Task) sm.Await // nil: Park
	close         func() error
	err           error
	steps, closes int
	task          *sm.Task // that stepped it last
}

func (f *fake) Step(t *sm.Task) sm.Await {
	f.steps++
	f.task = t
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

// answers is a fake that gives the answers in their order, then Done.
func answers(as ...sm.Await) *fake {
	f := new(fake)
	f.step = func(*sm.Task) sm.Await {
		if f.steps > len(as) {
			return sm.Done
		}
		return as[f.steps-1]
	}
	return f
}

// failing is a fake that ends with err.
func failing(err error) *fake {
	f := answers()
	f.err = err
	return f
}

// parker is a Parker with real Waiters, which can refuse.
type parker struct {
	refuse  error
	waiters map[int]*sm.Waiters
	parks   int
	unparks int
	onPark  func(t *sm.Task, a sm.Await)
}

func newParker() *parker { return &parker{waiters: make(map[int]*sm.Waiters)} }

func (p *parker) on(fd int) *sm.Waiters {
	if p.waiters[fd] == nil {
		p.waiters[fd] = new(sm.Waiters)
	}
	return p.waiters[fd]
}

func (p *parker) Park(t *sm.Task, a sm.Await) error {
	p.parks++
	if p.refuse != nil {
		return p.refuse
	}
	p.on(a.FD()).Add(t)
	if p.onPark != nil {
		p.onPark(t, a)
	}
	return nil
}

func (p *parker) Return(int, sm.Dir) {}

func (p *parker) Unpark(t *sm.Task, fd int) {
	p.unparks++
	p.on(fd).Remove(t)
}

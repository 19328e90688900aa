package sm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// readyModel says what a scheduler is to do: lists in the order of their rules,
// and no code of the scheduler's. The bytes of a test's input decide what
// happens, outside steps and within them.
type readyModel struct {
	t   testing.TB
	s   *sm.Scheduler
	in  []byte
	now int64 // milliseconds

	tasks []*readyTask // all, by id
	ready []*readyTask // for the next turn
	later []*readyTask // for the next turn, behind the ready ones
	batch []*readyTask // of this turn, not stepped yet
	woken []*readyTask // since the last turn
	naps  []*readyTask // by the end, then in the order in which they began
	fds   [2][]*readyTask
	steps int
	stale bool // a task that was woken has ended since: a turn is due, for nothing
	depth int  // of Close inside Close
	over  bool
}

// readyTask is a task of the model, and the frame of the real one.
type readyTask struct {
	m       *readyModel
	id      int
	task    *sm.Task
	joiners []*readyTask
	until   int64 // of a nap
	ready   bool  // resumed by an event
	waked   bool  // in woken
	roused  bool  // woken before the next step
	running bool
	again   bool // resumed while running
	doomed  bool // destroyed while running
	ended   bool
	closes  int
}

const mostReadyTasks = 200

// next is the next byte of the input, 0 at its end.
func (m *readyModel) next() byte {
	if len(m.in) == 0 {
		return 0
	}
	b := m.in[0]
	m.in = m.in[1:]
	return b
}

// pick is a task, dead or alive; nil when there is none.
func (m *readyModel) pick() *readyTask {
	if len(m.tasks) == 0 {
		return nil
	}
	return m.tasks[int(m.next())%len(m.tasks)]
}

func (m *readyModel) spawn() {
	if len(m.tasks) == mostReadyTasks {
		return
	}
	x := &readyTask{m: m, id: len(m.tasks)}
	m.tasks = append(m.tasks, x)
	m.ready = append(m.ready, x)
	x.task = m.s.Spawn(x)
}

func (m *readyModel) wake() {
	if x := m.pick(); x != nil {
		if !x.ended && !x.waked {
			x.waked = true
			m.woken = append(m.woken, x)
		}
		x.task.Waker().Wake()
	}
}

func (m *readyModel) destroy() {
	x := m.pick()
	if x == nil || m.depth > 2 {
		return
	}
	if x.running {
		x.doomed = true
	} else {
		m.leave(x)
	}
	x.task.Destroy()
	require.Equal(m.t, !x.running, x.ended && x.task.Ended())
}

// leave takes a task that ends, other than by its own step, out of every list.
// Close does the rest, within Destroy.
func (m *readyModel) leave(x *readyTask) {
	for _, list := range m.lists() {
		*list = slices.DeleteFunc(*list, func(y *readyTask) bool { return y == x })
	}
}

func (m *readyModel) lists() []*[]*readyTask {
	return []*[]*readyTask{&m.ready, &m.later, &m.batch, &m.woken, &m.naps, &m.fds[0], &m.fds[1]}
}

// resume makes a task ready, whatever it does.
func (m *readyModel) resume(x *readyTask) {
	switch {
	case x.ended || slices.Contains(m.ready, x) || slices.Contains(m.later, x) || slices.Contains(m.batch, x):
	case x.running:
		x.again = true
	default:
		wakes := m.woken
		m.woken = nil
		m.leave(x)
		m.woken = wakes
		m.ready = append(m.ready, x)
	}
}

// event is the readiness of a descriptor.
func (m *readyModel) event(fd int) {
	for _, x := range slices.Clone(m.fds[fd]) {
		x.ready = true
		m.resume(x)
	}
	m.s.Ready(fd, sm.Read)
}

// turn has the model and the scheduler make a turn.
func (m *readyModel) turn() {
	for len(m.naps) > 0 && m.naps[0].until <= m.now {
		m.resume(m.naps[0])
	}
	for _, x := range m.woken {
		x.waked, x.roused = false, true
		m.resume(x)
	}
	m.woken = nil
	m.batch = slices.Concat(m.ready, m.later)
	m.ready, m.later = nil, nil
	m.steps, m.stale = 0, false
	steps := m.s.Turn()
	require.Equal(m.t, m.steps, steps)
	require.Empty(m.t, m.batch, "not all of a turn's batch was stepped")
}

// Step checks that it is this task's turn, does something, and answers.
func (x *readyTask) Step(t *sm.Task) sm.Await {
	m := x.m
	require.NotEmpty(m.t, m.batch, "task %d is stepped, and nobody was ready", x.id)
	require.Equal(m.t, m.batch[0].id, x.id, "not first in, first out, and who gave way last")
	m.batch = m.batch[1:]
	require.Same(m.t, x.task, t)
	require.Equal(m.t, x.roused, t.Woken())
	require.Equal(m.t, x.ready, t.Ready() == sm.Read)
	x.running, x.again, x.roused, x.ready = true, false, false, false
	m.steps++
	for range m.next() % 4 {
		m.act()
	}
	a := x.answer(t)
	x.running = false
	switch {
	case x.doomed, !a.Pending():
	case a == sm.Yield:
		m.later = append(m.later, x)
	case x.again:
		m.ready = append(m.ready, x)
	case a.FD() >= 0:
		m.fds[a.FD()] = append(m.fds[a.FD()], x)
		m.nap(x, a)
	default:
		m.nap(x, a)
	}
	return a
}

// nap puts x among those that wait for a time, when a has one.
func (m *readyModel) nap(x *readyTask, a sm.Await) {
	if _, timed := a.Deadline(); !timed {
		return
	}
	i := len(m.naps)
	for i > 0 && m.naps[i-1].until > x.until {
		i--
	}
	m.naps = slices.Insert(m.naps, i, x)
}

// answer is what the input says.
func (x *readyTask) answer(t *sm.Task) sm.Await {
	m, arg := x.m, int64(0)
	switch m.next() % 8 {
	case 0:
		return sm.Done
	case 1:
		x.running = false
		panic("planted")
	case 2, 3:
		return sm.Yield
	case 4:
		return sm.Park
	case 5:
		arg = int64(m.next() % 16)
		x.until = m.now + arg
		return sm.Park.Until(t.Now().Add(time.Duration(arg) * time.Millisecond))
	case 6:
		arg = int64(m.next())
		a := sm.Wait(int(arg&1), sm.Read)
		if arg&2 != 0 {
			x.until = m.now + arg>>4
			a = a.Until(t.Now().Add(time.Duration(arg>>4) * time.Millisecond))
		}
		return a
	default:
		y := m.pick()
		if y == x {
			return sm.Yield
		}
		if !y.ended && !slices.Contains(y.joiners, x) {
			y.joiners = append(y.joiners, x)
		}
		return t.Join(y.task)
	}
}

// Close is the end of the task, in whatever way.
func (x *readyTask) Close() error {
	m := x.m
	x.closes++
	require.Equal(m.t, 1, x.closes, "task %d is closed again", x.id)
	require.True(m.t, x.task.Ended())
	m.leave(x)
	m.stale = m.stale || x.waked
	x.ended, x.running = true, false
	if m.over {
		return nil
	}
	m.depth++
	if m.next()%4 == 1 {
		m.act()
	}
	m.depth--
	// Once this has returned, those who wait for the task are resumed.
	for _, y := range x.joiners {
		m.resume(y)
	}
	return nil
}

// act does what may be done anywhere.
func (m *readyModel) act() {
	switch m.next() % 8 {
	case 0, 1:
		m.spawn()
	case 2, 3, 4:
		m.wake()
	case 5:
		m.destroy()
	case 6:
		m.event(int(m.next() & 1))
	case 7:
	}
}

// readyOps runs what the input says on a scheduler and on the model.
func readyOps(t *testing.T, in []byte) {
	m := &readyModel{t: t, in: in[:min(len(in), 2000)]}
	m.s = sm.NewScheduler(sm.Config{Report: func(task *sm.Task, err error) {
		p, ok := err.(*sm.PanicError)
		require.True(t, ok && p.Value == "planted", "report of %v", err)
	}})
	for len(m.in) > 0 {
		switch op := m.next(); op % 4 {
		case 0:
			m.act()
		case 1:
			d := int64(op >> 4)
			m.now += d
			m.s.Advance(time.Duration(d) * time.Millisecond)
		default:
			m.turn()
		}
		live := 0
		for _, x := range m.tasks {
			if !x.ended {
				live++
			}
		}
		require.Equal(t, live, m.s.Live())
		require.Equal(t, len(m.ready)+len(m.later)+len(m.woken) > 0 || m.stale, m.s.Busy())
	}
	m.over = true
	m.s.Close()
	for _, x := range m.tasks {
		assert.Equal(t, 1, x.closes, "task %d", x.id)
	}
	assert.Zero(t, m.s.Live())
}

func TestSchedulerAgainstLists(t *testing.T) {
	rnd := sm.SeededRand(t)
	for range 300 {
		in := make([]byte, rnd.IntN(1000))
		for i := range in {
			in[i] = byte(rnd.Uint32())
		}
		readyOps(t, in)
	}
}

func FuzzReady(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 2, 0, 2, 0, 0, 2})                // two yield
	f.Add([]byte{0, 0, 2, 1, 0, 4, 0, 2, 0, 2, 0, 4})          // one spawns, parks and is woken
	f.Add([]byte{0, 0, 0, 0, 2, 1, 5, 1, 4, 0, 0, 2})          // one destroys the other
	f.Add([]byte{0, 0, 2, 0, 5, 8, 0x81, 2, 0, 4, 0, 2, 0, 2}) // naps, and is woken
	f.Add([]byte{0, 0, 0, 0, 2, 0, 7, 1, 0, 1, 2, 0, 0})       // joins one that panics
	f.Add([]byte{0, 0, 0, 0, 2, 0, 6, 2, 0, 6, 0, 0, 6, 0, 2}) // wait for a descriptor, one with a limit
	f.Fuzz(readyOps)
}

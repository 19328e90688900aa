//go:build linux || darwin

package stepio

import (
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// spawnJob starts a task that runs fn on p by job.
func spawnJob[T any](w *world, job *Job[T], p *Pool, fn func() (T, error)) *fake {
	job.Start(p, fn)
	f := script(job.Step)
	f.close = job.Close
	f.task = w.Spawn(f)
	return f
}

func TestJobRunsOffTheLoopAndResumesOnIt(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 1, 1)
	loop := goroutineID()
	var job Job[uint64]
	var resumed uint64
	job.Start(p, func() (uint64, error) { return goroutineID(), nil })
	v, err := job.Result()
	assert.Zero(t, v)
	assert.Equal(t, sm.ErrNoResult, err, "nothing happens before Step")
	f := script(job.Step, func(*sm.Task) sm.Await { resumed = goroutineID(); return sm.Done })
	w.ended(w.Spawn(f))
	worker, err := job.Result()
	require.NoError(t, err)
	assert.NotEqual(t, loop, worker)
	assert.Equal(t, loop, resumed)
}

func TestJobThatFails(t *testing.T) {
	p := newTestPool(t, 1, 1) // one worker, which every case must leave alive
	for name, c := range map[string]struct {
		fn    func() (int, error)
		value int
		check func(error)
	}{
		"an error is the job's, with its value": {
			func() (int, error) { return 7, io.ErrUnexpectedEOF }, 7,
			func(err error) { assert.Equal(t, io.ErrUnexpectedEOF, err) },
		},
		"a panic becomes the job's error": {
			func() (int, error) { panic("thrown") }, 0,
			func(err error) {
				var p *sm.PanicError
				require.ErrorAs(t, err, &p)
				assert.Equal(t, "thrown", p.Value)
				assert.Contains(t, string(p.Stack), "TestJobThatFails")
			},
		},
		"a panic with an error can be looked into": {
			func() (int, error) { panic(io.ErrClosedPipe) }, 0,
			func(err error) { assert.ErrorIs(t, err, io.ErrClosedPipe) },
		},
		"the goroutine's exit becomes the job's error": {
			func() (int, error) { runtime.Goexit(); return 0, nil }, 0,
			func(err error) { assert.Equal(t, errJobGoexit, err) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			dropped := false
			job := Job[int]{Drop: func(int) { dropped = true }}
			w.ended(spawnJob(w, &job, p, c.fn).task)
			v, err := job.Result()
			assert.Equal(t, c.value, v)
			require.Error(t, err)
			c.check(err)
			assert.Equal(t, err, job.Err())
			assert.False(t, dropped)
		})
	}
}

// A root Job's error is its task's, and reported when nobody joins.
func TestJobAsARootFrame(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 1, 1)
	var job Job[int]
	job.Start(p, func() (int, error) { return 0, io.ErrUnexpectedEOF })
	task := w.Spawn(&job)
	w.ended(task)
	assert.Equal(t, io.ErrUnexpectedEOF, task.Err())
	assert.Len(t, w.reported(), 1)
	_, err := job.Result()
	assert.Equal(t, io.ErrUnexpectedEOF, err, "the result outlives the task")
}

func TestJobMisused(t *testing.T) {
	w := newTestLoop(t)
	p, g := busyPool(t, 1)
	var job Job[int]
	assert.Equal(t, sm.Done, job.Step(nil), "one that was not started is done")
	_, err := job.Result()
	assert.Equal(t, sm.ErrNoResult, err)
	assert.NoError(t, job.Close())
	assert.PanicsWithValue(t, "stepio: Job.Start: nil function", func() { job.Start(p, nil) })

	f := spawnJob(w, &job, p, func() (int, error) { return 1, nil })
	w.turns(1)
	assert.PanicsWithValue(t, "stepio: Job.Start: still waiting", func() { job.Start(p, func() (int, error) { return 2, nil }) })
	other := w.spawn(job.Step)
	w.turns(1)
	assert.True(t, other.task.Ended())
	assert.ErrorContains(t, other.task.Err(), "stepio: Job.Step: submitted by another task")
	assert.Len(t, w.reported(), 1)
	g.lift()
	w.ended(f.task)
	v, err := job.Result()
	assert.Equal(t, 1, v)
	assert.NoError(t, err)
}

func TestJobStartedAgainBeforeItsStepRunsTheLast(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 1, 1)
	var job Job[int]
	job.Start(p, func() (int, error) { t.Error("ran"); return 1, nil })
	w.ended(spawnJob(w, &job, p, func() (int, error) { return 2, nil }).task)
	v, err := job.Result()
	assert.Equal(t, 2, v)
	assert.NoError(t, err)
}

func TestJobIsReused(t *testing.T) {
	w := newTestLoop(t)
	pools := []*Pool{newTestPool(t, 1, 1), newTestPool(t, 2, 1)}
	var job Job[int]
	rounds := 0
	f := w.spawn(func(task *sm.Task) sm.Await {
		for {
			if a := job.Step(task); a.Pending() {
				return a
			}
			if rounds > 0 {
				v, err := job.Result()
				assert.Equal(t, rounds, v)
				assert.NoError(t, err)
			}
			if rounds == 100 {
				return sm.Done
			}
			rounds++
			n := rounds
			job.Start(pools[n%2], func() (int, error) { return n, nil })
			_, err := job.Result()
			assert.Equal(t, sm.ErrNoResult, err, "the last result is gone")
		}
	})
	w.ended(f.task)
	assert.Equal(t, 100, rounds)
}

// Tasks beyond the queue's bound wait in line, in their order.
func TestJobWaitsInLineBehindAFullQueue(t *testing.T) {
	w := newTestLoop(t)
	const queue, jobs = 3, 50
	p, g := busyPool(t, queue)
	var order []int
	var tasks []*sm.Task
	for i := range jobs {
		tasks = append(tasks, spawnJob(w, new(Job[int]), p, func() (int, error) {
			order = append(order, i)
			return 0, nil
		}).task)
	}
	w.turns(2)
	assert.Equal(t, ErrQueueFull, p.TrySubmit(func() { t.Error("ran") }), "it does not overtake")
	g.lift()
	w.ended(tasks...)
	require.Len(t, order, jobs)
	assert.IsIncreasing(t, order)
}

func TestJobTrySubmit(t *testing.T) {
	w := newTestLoop(t)
	p, g := busyPool(t, 2)
	var errs []error
	jobs := make([]Job[int], 4)
	var tasks []*sm.Task
	for i := range jobs {
		f := script(func(task *sm.Task) sm.Await {
			errs = append(errs, jobs[i].TrySubmit(task, p, func() (int, error) { return i, nil }))
			return sm.Done
		}, jobs[i].Step)
		tasks = append(tasks, w.Spawn(f))
	}
	w.turns(1)
	assert.Equal(t, []error{nil, nil, ErrQueueFull, ErrQueueFull}, errs)
	g.lift()
	w.ended(tasks...)
	for i := range jobs {
		v, err := jobs[i].Result()
		if i < 2 {
			assert.Equal(t, i, v)
			assert.NoError(t, err)
		} else {
			assert.Equal(t, ErrQueueFull, err)
			assert.Nil(t, jobs[i].cell.fn, "a refused job keeps nothing alive")
		}
	}

	p.Stop()
	closed := w.spawn(func(task *sm.Task) sm.Await {
		assert.Equal(t, ErrPoolClosed, jobs[0].TrySubmit(task, p, func() (int, error) { return 0, nil }))
		return sm.Done
	})
	w.ended(closed.task)
}

func TestJobAfterStop(t *testing.T) {
	w := newTestLoop(t)
	p, g := busyPool(t, 1)
	var before, after Job[int]
	one := spawnJob(w, &before, p, func() (int, error) { return 1, nil })
	two := spawnJob(w, new(Job[int]), p, func() (int, error) { return 1, nil }) // beyond the bound
	w.turns(1)
	p.Stop()
	w.ended(spawnJob(w, &after, p, func() (int, error) { t.Error("ran"); return 0, nil }).task)
	_, err := after.Result()
	assert.Equal(t, ErrPoolClosed, err)
	g.lift()
	w.ended(one.task, two.task)
	v, err := before.Result()
	assert.Equal(t, 1, v, "what is in line already runs")
	assert.NoError(t, err)
}

// What the original does: the pool resumes a coroutine that was destroyed.
func TestDefectTaskDestroyedWhileWaitingInThePool(t *testing.T) {
	t.Run("in line: the function never runs", func(t *testing.T) {
		w := newTestLoop(t)
		p, g := busyPool(t, 2)
		job := Job[int]{Drop: func(int) { t.Error("dropped") }}
		var order []int
		push := func(i int) *fake {
			return spawnJob(w, new(Job[int]), p, func() (int, error) { order = append(order, i); return 0, nil })
		}
		first := push(1)
		f := spawnJob(w, &job, p, func() (int, error) { t.Error("ran"); return 0, nil })
		second := push(2)
		w.turns(1)
		f.task.Destroy()
		assert.Equal(t, 1, f.closes)
		_, err := job.Result()
		assert.Equal(t, sm.ErrNoResult, err)
		assert.Equal(t, ErrQueueFull, p.TrySubmit(func() {}))
		third := push(3)
		g.lift()
		w.ended(first.task, second.task, third.task)
		assert.Equal(t, []int{1, 2, 3}, order, "the others keep their places")
		steps := f.steps
		w.settle()
		assert.Equal(t, steps, f.steps)
	})
	t.Run("running: the worker drops the result", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		g := newGate(t)
		dropped := make(chan int, 1)
		job := Job[int]{Drop: func(v int) { dropped <- v }}
		f := spawnJob(w, &job, p, func() (int, error) { g.pass(); return 42, nil })
		w.turns(1)
		receives(t, "it runs", g.entered)
		f.task.Destroy()
		job = Job[int]{} // nothing touches the frame: the race detector watches
		assert.Empty(t, dropped)
		g.lift()
		assert.Equal(t, 42, receives(t, "Drop", dropped))
		p.Stop()
		within(t, "Join", p.Join)
		assert.Empty(t, dropped, "once")
		steps := f.steps
		w.settle()
		assert.Equal(t, steps, f.steps)
	})
	t.Run("done, not stepped yet: the loop drops the result", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		var dropped []int
		job := Job[int]{Drop: func(v int) { dropped = append(dropped, v) }}
		f := spawnJob(w, &job, p, func() (int, error) { return 42, nil })
		w.turns(1)
		p.Stop()
		within(t, "Join", p.Join)
		f.task.Destroy()
		assert.Equal(t, []int{42}, dropped)
		w.settle()
		assert.Equal(t, []int{42}, dropped, "once")
		assert.Equal(t, 1, f.steps)
	})
	t.Run("not submitted yet: nothing happens at all", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		job := Job[int]{Drop: func(int) { t.Error("dropped") }}
		f := spawnJob(w, &job, p, func() (int, error) { t.Error("ran"); return 0, nil })
		f.task.Destroy()
		assert.Equal(t, sm.Done, job.Step(f.task), "a job that was closed does not run after all")
	})
	t.Run("running, and it fails: there is nothing to drop", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		g := newGate(t)
		job := Job[int]{Drop: func(int) { t.Error("dropped") }}
		f := spawnJob(w, &job, p, func() (int, error) { g.pass(); panic("thrown") })
		w.turns(1)
		receives(t, "it runs", g.entered)
		f.task.Destroy()
		g.lift()
		p.Stop()
		within(t, "Join", p.Join)
	})
}

// The frame can be used for another job while the worker still runs the one
// that was given up.
func TestJobStartedAgainAfterClose(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 2, 1)
	g := newGate(t)
	dropped := make(chan int, 2)
	job := Job[int]{Drop: func(v int) { dropped <- v }}
	f := script(job.Step)
	job.Start(p, func() (int, error) { g.pass(); return 1, nil })
	task := w.Spawn(f)
	w.turns(1)
	receives(t, "it runs", g.entered)
	require.NoError(t, job.Close())
	job.Start(p, func() (int, error) { return 2, nil })
	task.Waker().Wake()
	w.ended(task)
	v, err := job.Result()
	assert.Equal(t, 2, v)
	assert.NoError(t, err)
	assert.NoError(t, job.Close(), "a result that is there is not dropped")
	g.lift()
	assert.Equal(t, 1, receives(t, "Drop", dropped))
	p.Stop()
	within(t, "Join", p.Join)
	assert.Empty(t, dropped)
}

func TestJobDropThatPanics(t *testing.T) {
	t.Run("on the worker, which logs it and lives on", func(t *testing.T) {
		log := captureLog(t)
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		g := newGate(t)
		job := Job[int]{Drop: func(int) { panic("in Drop") }}
		f := spawnJob(w, &job, p, func() (int, error) { g.pass(); return 1, nil })
		w.turns(1)
		receives(t, "it runs", g.entered)
		f.task.Destroy()
		g.lift()
		var next Job[int]
		w.ended(spawnJob(w, &next, p, func() (int, error) { return 2, nil }).task)
		assert.Contains(t, log.String(), "in Drop")
	})
	t.Run("on the loop, as the error of Close", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 1, 1)
		job := Job[int]{Drop: func(int) { panic("in Drop") }}
		closed := false
		f := spawnJob(w, &job, p, func() (int, error) { return 1, nil })
		f.close = func() error {
			err := job.Close()
			closed = true // the rest of the owner's Close is not lost
			return err
		}
		w.turns(1)
		p.Stop()
		within(t, "Join", p.Join)
		f.task.Destroy()
		assert.True(t, closed)
		errs := w.reported()
		require.Len(t, errs, 1)
		assert.ErrorContains(t, errs[0], "in Drop")
	})
}

// A wake is not the result: the Job goes on waiting.
func TestJobSpuriousWakes(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 1, 1)
	g := newGate(t)
	var job Job[int]
	f := spawnJob(w, &job, p, func() (int, error) { g.pass(); return 3, nil })
	w.turns(1)
	receives(t, "it runs", g.entered)
	for range 100 {
		f.task.Waker().Wake()
		w.turns(1)
	}
	assert.GreaterOrEqual(t, f.steps, 100)
	assert.False(t, f.task.Ended())
	g.lift()
	w.ended(f.task)
	v, err := job.Result()
	assert.Equal(t, 3, v)
	assert.NoError(t, err)
}

// The peer resets the connection while its task waits in the pool: the loop
// must not spin on the hang-up, and the task learns of it when it writes.
func TestTrapResetWhileItsTaskIsInThePool(t *testing.T) {
	w := newFaultyLoop(t)
	p := newTestPool(t, 1, 1)
	g := newGate(t)
	c, far := w.pair()
	var job Job[[]byte]
	var readErr, writeErr error
	buf := make([]byte, 16)
	f := script(func(*sm.Task) sm.Await {
		n, err := c.Read(buf)
		if err == ErrWouldBlock {
			return c.Readable()
		}
		request := append([]byte(nil), buf[:n]...)
		job.Start(p, func() ([]byte, error) { g.pass(); return request, nil })
		return sm.Done
	}, job.Step, func(*sm.Task) sm.Await {
		_, readErr = c.Read(buf)
		_, writeErr = c.Write(buf)
		return sm.Done
	})
	f.close = c.Close
	task := w.Spawn(f)
	w.turns(1)
	far.send([]byte("request"))
	w.until("the job is in the pool", func() bool { return job.state == jobWaiting })
	receives(t, "it runs", g.entered)
	steps := f.steps
	far.reset()
	waits := w.faults.during(func() { w.settle(); w.settle() }, callPollWait)
	assert.Less(t, waits, 20, "the hang-up does not come again and again")
	assert.Equal(t, steps, f.steps, "nobody waits for the connection")
	g.lift()
	w.ended(task)
	assert.Error(t, readErr)
	assert.Error(t, writeErr)
}

func TestJobLoopClosedWhileItRuns(t *testing.T) {
	w := newTestLoop(t)
	p := newTestPool(t, 1, 10)
	g := newGate(t)
	dropped := make(chan int, 10)
	var frames []*fake
	for i := range 3 {
		frames = append(frames, spawnJob(w, &Job[int]{Drop: func(v int) { dropped <- v }}, p, func() (int, error) {
			g.pass()
			return i, nil
		}))
	}
	w.turns(1)
	receives(t, "the first runs", g.entered)
	require.NoError(t, w.Close())
	for _, f := range frames {
		assert.Equal(t, 1, f.closes)
	}
	g.lift()
	assert.Equal(t, 0, receives(t, "Drop", dropped))
	p.Stop()
	within(t, "Join", p.Join)
	assert.Empty(t, dropped, "the others never ran")
	assert.Empty(t, g.entered)
}

func TestJobInAllAndAny(t *testing.T) {
	t.Run("all succeed", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 2, 10)
		jobs := make([]Job[int], 3)
		var all sm.All
		for i := range jobs {
			jobs[i].Start(p, func() (int, error) { return i, nil })
		}
		all.Start(&jobs[0], &jobs[1], &jobs[2])
		f := script(all.Step)
		w.ended(w.Spawn(f))
		assert.NoError(t, all.Err())
		for i := range jobs {
			v, err := jobs[i].Result()
			assert.Equal(t, i, v)
			assert.NoError(t, err)
		}
	})
	t.Run("one fails: the rest is given up and dropped", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 2, 10)
		g := newGate(t)
		dropped := make(chan int, 1)
		slow := Job[int]{Drop: func(v int) { dropped <- v }}
		slow.Start(p, func() (int, error) { g.pass(); return 9, nil })
		var bad Job[int]
		bad.Start(p, func() (int, error) { return 0, io.ErrUnexpectedEOF })
		var all sm.All
		all.Start(&slow, &bad)
		f := script(all.Step)
		w.ended(w.Spawn(f))
		assert.Equal(t, io.ErrUnexpectedEOF, all.Err())
		_, err := slow.Result()
		assert.Equal(t, sm.ErrNoResult, err)
		g.lift()
		assert.Equal(t, 9, receives(t, "Drop", dropped))
	})
	t.Run("the first wins, the loser's result is dropped", func(t *testing.T) {
		w := newTestLoop(t)
		p := newTestPool(t, 2, 10)
		g := newGate(t)
		dropped := make(chan int, 1)
		slow := Job[int]{Drop: func(v int) { dropped <- v }}
		slow.Start(p, func() (int, error) { g.pass(); return 9, nil })
		var fast Job[int]
		fast.Start(p, func() (int, error) { return 1, nil })
		var race sm.Any
		race.Start(&slow, &fast)
		f := script(race.Step)
		w.ended(w.Spawn(f))
		assert.Equal(t, 1, race.Winner())
		v, err := fast.Result()
		assert.Equal(t, 1, v)
		assert.NoError(t, err)
		g.lift()
		assert.Equal(t, 9, receives(t, "Drop", dropped))
	})
}

// Whatever happens to a task when, each result has exactly one taker: the
// frame that reads it, or Drop.
func TestJobEveryResultHasOneTaker(t *testing.T) {
	random := seededRand(t)
	for range 20 {
		w := newTestLoop(t)
		p := newTestPool(t, 3, 8)
		const jobs = 200
		var ran, taken, dropped [jobs]atomic.Int32
		var tasks []*sm.Task
		for i := range jobs {
			job := &Job[int]{Drop: func(v int) { dropped[v].Add(1) }}
			job.Start(p, func() (int, error) {
				ran[i].Add(1)
				for range i % 7 {
					runtime.Gosched()
				}
				return i, nil
			})
			f := script(job.Step, func(*sm.Task) sm.Await {
				v, err := job.Result()
				assert.NoError(t, err)
				taken[v].Add(1)
				return sm.Done
			})
			f.close = job.Close
			tasks = append(tasks, w.Spawn(f))
		}
		for range jobs {
			disturb(random, w, tasks)
		}
		if random.IntN(2) == 0 {
			w.ended(tasks...)
		} else {
			require.NoError(t, w.Close())
		}
		p.Stop()
		within(t, "Join", p.Join)
		for i := range jobs {
			assert.LessOrEqual(t, ran[i].Load(), int32(1))
			assert.Equal(t, ran[i].Load(), taken[i].Load()+dropped[i].Load())
		}
	}
}

func disturb(random *rand.Rand, w *world, tasks []*sm.Task) {
	task := tasks[random.IntN(len(tasks))]
	switch random.IntN(4) {
	case 0:
		w.turns(1)
	case 1:
		task.Waker().Wake()
	case 2:
		task.Destroy()
	case 3:
		runtime.Gosched()
	}
}

// Loops share a pool, and each task is resumed by its own.
func TestJobFromManyLoops(t *testing.T) {
	p := newTestPool(t, 2, 4)
	g, err := NewGroup(3, WithChecks())
	require.NoError(t, err)
	var left sync.WaitGroup
	require.NoError(t, g.Each(func(i int, l *Loop) error {
		loop := goroutineID()
		for range 50 {
			left.Add(1)
			job := new(Job[int])
			job.Start(p, func() (int, error) { return i, nil })
			f := script(job.Step, func(*sm.Task) sm.Await {
				v, err := job.Result()
				assert.NoError(t, err)
				assert.Equal(t, i, v)
				assert.Equal(t, loop, goroutineID())
				return sm.Done
			})
			f.close = func() error { left.Done(); return job.Close() }
			l.Spawn(f)
		}
		return nil
	}))
	within(t, "all jobs", left.Wait)
	g.Stop()
	require.NoError(t, g.Join())
}

// A hop to the pool and back allocates nothing when the function is at hand.
func TestJobAllocatesNothing(t *testing.T) {
	if underRaceDetector() {
		t.Skip("the detector's eventfd write allocates")
	}
	l, err := NewLoop()
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	p := newTestPool(t, 1, 1)
	var job Job[int]
	hops := 0
	fn := func() (int, error) { return hops, nil }
	f := &fake{step: func(task *sm.Task) sm.Await {
		for {
			if job.state == jobDone {
				hops++
			}
			if job.state != jobWaiting {
				job.Start(p, fn)
			}
			a := job.Step(task)
			if a.Pending() {
				return a
			}
		}
	}, close: job.Close}
	l.Spawn(f)
	hop := func() {
		for before := hops; hops == before; {
			if err := l.turn(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 100 {
		hop()
	}
	assert.Zero(t, testing.AllocsPerRun(1000, hop))
}

func underRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

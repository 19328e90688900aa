// Package parked measures what a great number of parked tasks cost: memory,
// garbage collection, waking. The descriptors are simulated, so that there can be
// more tasks than a process may have sockets, and so that nothing of the kernel's
// is counted; tasks, frames and slots are those of an idle connection.
package parked

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/bench/internal/result"
	"github.com/stepio-go/stepio/sm"
)

const (
	rounds     = 5       // of what is measured several times; the median counts
	eventBatch = 512     // events a turn, as in a loop
	goroutines = 100_000 // for comparison
)

// Measure parks that many tasks and measures them. It wants a process of its own:
// it measures the whole process, and turns the garbage collector off for a while.
//
// The CPU time is that of the process clock (clock_gettime(2)), not the estimate of
// runtime/metrics, which counts every processor as busy while the world is
// stopped. The longest pause is the upper end of the bucket in which
// /sched/pauses/total/gc has it. Tasks are woken in an order in which they do not
// lie in memory.
func Measure(tasks int) (result.Parked, error) {
	if tasks <= 0 {
		return result.Parked{}, fmt.Errorf("parked: %d tasks", tasks)
	}
	r := result.Parked{Tasks: tasks}
	if err := measureTasks(&r); err != nil {
		return result.Parked{}, err
	}
	// The tasks are gone. What the runtime keeps of their memory for its own use
	// is not counted again, which favours the goroutines.
	var err error
	r.Goroutine, err = goroutineRSS(goroutines)
	return r, err
}

func measureTasks(r *result.Parked) error {
	order := rand.New(rand.NewPCG(1, 2)).Perm(r.Tasks)
	p := &poller{stepped: make([]uint8, r.Tasks)}
	before, err := memory()
	if err != nil {
		return err
	}

	var failures []error
	s := sm.NewScheduler(sm.Config{
		Parker: p,
		Clock:  sm.Monotonic,
		Report: func(t *sm.Task, err error) { failures = append(failures, fmt.Errorf("%v: %w", t, err)) },
	})
	for fd := range r.Tasks {
		s.Spawn(&echo{conn: &conn{poller: p, fd: int32(fd)}})
	}
	s.Turn()
	if err := p.check(1); err != nil {
		return errors.Join(err, errors.Join(failures...))
	}

	after, err := memory()
	if err != nil {
		return err
	}
	r.HeapTask = float64(after.heap-before.heap) / float64(r.Tasks)
	r.RSSTask = float64(after.rss-before.rss) / float64(r.Tasks)
	if err := measureGC(r); err != nil {
		return err
	}
	if err := measureWakes(r, s, p, order); err != nil {
		return errors.Join(err, errors.Join(failures...))
	}
	if s.Live() != r.Tasks {
		return fmt.Errorf("parked: %d tasks of %d are left: %w", s.Live(), r.Tasks, errors.Join(failures...))
	}
	return nil
}

// check says whether every task was stepped exactly that many times.
func (p *poller) check(steps uint8) error {
	for fd, n := range p.stepped {
		if n != steps {
			return fmt.Errorf("parked: task %d was stepped %d times instead of %d", fd, n, steps)
		}
	}
	return nil
}

// measureGC collects garbage while all tasks are parked.
func measureGC(r *result.Parked) error {
	cpu, wall := make([]time.Duration, 0, rounds), make([]time.Duration, 0, rounds)
	pauses := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(pauses)
	if pauses[0].Value.Kind() != metrics.KindFloat64Histogram {
		return fmt.Errorf("parked: this Go has no metric %s", pauses[0].Name)
	}
	old := slices.Clone(pauses[0].Value.Float64Histogram().Counts)
	for range rounds {
		began, began2, err := clocks()
		if err != nil {
			return err
		}
		runtime.GC()
		ended, ended2, err := clocks()
		if err != nil {
			return err
		}
		cpu = append(cpu, ended-began)
		wall = append(wall, ended2-began2)
	}
	metrics.Read(pauses)
	h := pauses[0].Value.Float64Histogram()
	for i, n := range h.Counts {
		if n > old[i] { // the buckets ascend: the last one counts
			r.GCPause = time.Duration(h.Buckets[i+1] * float64(time.Second))
		}
	}
	r.GCCPU, r.GCWall = median(cpu), median(wall)
	return nil
}

// measureWakes makes every task readable, once a round.
func measureWakes(r *result.Parked, s *sm.Scheduler, p *poller, order []int) error {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	cpu := make([]time.Duration, 0, rounds) // which must not be counted as an allocation
	var start, end runtime.MemStats
	runtime.ReadMemStats(&start)
	for round := range rounds {
		began, _, err := clocks()
		if err != nil {
			return err
		}
		steps := 0
		for events := range slices.Chunk(order, eventBatch) {
			for _, fd := range events {
				p.ready(fd, 0)
			}
			steps += s.Turn()
		}
		ended, _, err := clocks()
		if err != nil {
			return err
		}
		cpu = append(cpu, ended-began)
		if steps != r.Tasks {
			return fmt.Errorf("parked: %d steps of %d tasks", steps, r.Tasks)
		}
		if err := p.check(uint8(round + 2)); err != nil { // one before the first round
			return err
		}
	}
	runtime.ReadMemStats(&end)
	wakes := float64(rounds * r.Tasks)
	r.AllocWake = float64(end.Mallocs-start.Mallocs) / wakes
	r.WakeTask = median(cpu) / time.Duration(r.Tasks)
	return nil
}

// goroutineRSS is the resident memory of each of n goroutines that wait on a
// channel.
func goroutineRSS(n int) (float64, error) {
	before, err := memory()
	if err != nil {
		return 0, err
	}
	var started, ended sync.WaitGroup
	started.Add(n)
	ended.Add(n)
	released := make(chan struct{})
	wait := func() {
		started.Done()
		<-released
		ended.Done()
	}
	for range n {
		go wait()
	}
	started.Wait()
	after, err := memory()
	close(released)
	ended.Wait()
	return float64(after.rss-before.rss) / float64(n), err
}

// sizes is the memory of this process in bytes.
type sizes struct{ heap, rss int64 }

// memory collects garbage, gives what is free back to the system, and says what
// is left.
func memory() (sizes, error) {
	debug.FreeOSMemory()
	debug.FreeOSMemory() // what a finalizer has let go of
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	text, err := os.ReadFile("/proc/self/statm") // proc_pid_statm(5): size resident ...
	if err != nil {
		return sizes{}, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return sizes{}, fmt.Errorf("parked: /proc/self/statm has %q", text)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return sizes{}, fmt.Errorf("parked: /proc/self/statm: %w", err)
	}
	return sizes{int64(m.HeapAlloc), pages * int64(os.Getpagesize())}, nil
}

// clocks are the CPU time of this process, user and system, and the time.
func clocks() (cpu, wall time.Duration, err error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0, 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), sm.Monotonic(), nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

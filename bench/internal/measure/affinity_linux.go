package measure

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// CPUs returns the numbers of the CPUs that this process may use.
func CPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var cpus []int
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
			left--
		}
	}
	return cpus, nil
}

// pinned calls f on a thread that may only use those CPUs: a process that f
// starts inherits them (sched_setaffinity(2)). With no CPUs it just calls f.
func pinned(cpus []int, f func() error) error {
	if len(cpus) == 0 {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Left locked when the old CPUs cannot be had back: then the thread ends with
		// this goroutine, and nothing else of this process runs on it.
		runtime.LockOSThread()
		var before, want unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			done <- fmt.Errorf("sched_getaffinity: %w", err)
			return
		}
		for _, cpu := range cpus {
			want.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &want); err != nil {
			done <- fmt.Errorf("sched_setaffinity to CPUs %v: %w", cpus, err)
			return
		}
		err := f()
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// endWithParent has the kernel end the child with the thread that starts it
// (PR_SET_PDEATHSIG(2const)). The runtime keeps its threads, so that is when
// this process ends.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGTERM }

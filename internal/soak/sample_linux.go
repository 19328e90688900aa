package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is how the server is at a moment.
type sample struct {
	RSS        int64 // bytes resident
	HeapLive   int64 // bytes that the last collection has found in use
	HeapInUse  int64 // bytes of objects, with what no collection has found yet
	Tasks      int   // that have not ended; 0 without a service
	Registered int   // descriptors in the epoll sets: the kernel's view of the slots
	FDs        int
	Goroutines int
	CPU        time.Duration // of the process since its start
	Restarts   restarts
}

// sample measures this process.
func (s *server) sample(m *sample) (err error) {
	values := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(values)
	m.HeapLive, m.HeapInUse = int64(values[0].Value.Uint64()), int64(values[1].Value.Uint64())
	m.Goroutines = runtime.NumGoroutine()
	s.mu.Lock()
	m.Restarts = s.restarts
	var g *generation
	if s.service != nil {
		g = s.service.now
	}
	s.mu.Unlock()
	if g != nil {
		if m.Tasks, err = g.tasks(); err != nil {
			return err
		}
	}
	if m.FDs, m.Registered, err = descriptors(); err != nil {
		return err
	}
	if m.CPU, err = processorTime(); err != nil {
		return err
	}
	m.RSS, err = residentMemory()
	return err
}

// residentMemory counts the pages of this process (proc_pid_smaps(5)): the
// counters of status may lag behind.
func residentMemory() (int64, error) {
	text, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Rss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Rss in smaps_rollup")
}

// descriptors counts this process's, and those that are registered with its
// epoll instances (proc_pid_fdinfo(5)). A descriptor may be closed meanwhile.
func descriptors() (open, registered int, err error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0, 0, err
	}
	names, err := dir.Readdirnames(0)
	if err := dir.Close(); err != nil {
		return 0, 0, err
	}
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", name))
		if err != nil || target != "anon_inode:[eventpoll]" {
			continue
		}
		info, err := os.ReadFile(filepath.Join("/proc/self/fdinfo", name))
		if err != nil {
			continue
		}
		registered += bytes.Count(info, []byte("tfd:"))
	}
	return len(names) - 1, registered, nil // but for the directory's own
}

// processorTime is what this process has used, in user and system mode.
func processorTime() (time.Duration, error) {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return 0, err
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), nil
}

// clock is the machine's monotonic clock: the same for every process.
func clock() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(fmt.Sprintf("soak: clock_gettime: %v", err)) // there is none other
	}
	return time.Duration(now.Nano())
}

// machineBusy is the processor time that all processes of the machine have used,
// and that other machines have taken from this one (proc_stat(5)).
func machineBusy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	const idle, iowait, guest = 4, 5, 9
	var ticks int64
	for i, f := range fields {
		if i == 0 || i == idle || i == iowait || i >= guest { // guest time is user time as well
			continue
		}
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil // USER_HZ is 100
}

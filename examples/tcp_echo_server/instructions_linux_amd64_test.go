package main

import (
	"bytes"
	"cmp"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The instructions of an echo in user space, counted by stepping the loop's thread
// (ptrace(2), PTRACE_SINGLESTEP). CPU times differ by some hundredths from run to
// run; this is a figure that does not: what is done to the hot path shows at once.

const (
	turns     = 5
	mostSteps = 1_000_000 // a thousand times what a request takes
	// mostInstructions is what the library and the frame may execute for a request:
	// with Go 1.26 it is 757, and another compiler may need some more. What the Go
	// runtime does beside is not in it.
	mostInstructions = 800
)

var instructions = flag.Bool("instructions", false, "step the server's thread and count its instructions")

func TestEchoServerFiguresOfInstructions(t *testing.T) {
	if !*instructions {
		t.Skip("SKIPPED: it stops all of the server's threads but one, and is for those who ask: -instructions")
	}
	s := startServer(t)
	clients := s.connect(t, 20)
	pingAll(t, clients, func(done int64) bool { return done < 20_000 }) // the loop's thread is the one that has worked
	code := readCode(t)
	var over atomic.Bool
	type result struct {
		seen []step
		err  error
	}
	traced := make(chan result, 1)
	go func() {
		defer over.Store(true)
		var r result
		for range 5 {
			if r.seen, r.err = s.step(turns + 1); !errors.Is(r.err, errStalled) {
				break
			}
		}
		traced <- r
	}()
	pingAll(t, clients, func(int64) bool { return !over.Load() })
	r := <-traced
	if errors.Is(r.err, unix.EPERM) {
		t.Skip("SKIPPED: this process may not trace others:", r.err)
	}
	require.NoError(t, r.err)
	seen := r.seen
	requests, counts := perFunction(seen, code)
	require.Greater(t, requests, 10)
	total := 0.0
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Compare(counts[b], counts[a]) })
	for _, name := range names {
		if !strings.HasPrefix(name, "github.com/stepio-go/stepio") && !strings.HasPrefix(name, "main.") {
			continue
		}
		each := float64(counts[name]) / float64(requests)
		total += each
		if each >= 5 {
			t.Logf("%6.1f  %s", each, strings.TrimPrefix(name, "github.com/stepio-go/"))
		}
	}
	t.Logf("%6.1f instructions a request, of the library and the frame (%d requests, %d connections)", total, requests, len(clients))
	assert.Less(t, total, float64(mostInstructions))
}

// step is where the thread was, and what was in RAX: before a SYSCALL instruction,
// the number of the call.
type step struct{ ip, ax uint64 }

const syscallLength = 2 // bytes of that instruction

// step makes the loop's thread go on until it has waited so many times, while all
// others stand still. The calls of ptrace must come from one thread.
func (s server) step(waits int) (seen []step, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	loop, others, err := s.threads()
	if err != nil {
		return nil, err
	}
	for _, tid := range append(others, loop) {
		if err := halt(tid); err != nil {
			return nil, err
		}
		defer func() { _ = unix.PtraceDetach(tid) }() // it may have ended
	}
	defer func() {
		if errors.Is(err, errStalled) { // it must stand still to be let go
			err = errors.Join(err, unix.PtraceInterrupt(loop), await(loop))
		}
	}()
	for left := waits; left > 0 && len(seen) < mostSteps; {
		var regs unix.PtraceRegs
		if err := unix.PtraceGetRegs(loop, &regs); err != nil {
			return seen, fmt.Errorf("registers: %w", err)
		}
		if last := len(seen) - 1; last >= 0 && seen[last].ax == unix.SYS_EPOLL_PWAIT && regs.Rip == seen[last].ip+syscallLength {
			left--
		}
		seen = append(seen, step{regs.Rip, regs.Rax})
		if err := unix.PtraceSingleStep(loop); err != nil {
			return seen, fmt.Errorf("step: %w", err)
		}
		if err := await(loop); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

// threads are those of the server: the one that has used the most CPU time, and the
// others.
func (s server) threads() (loop int, others []int, err error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.pid))
	if err != nil {
		return 0, nil, err
	}
	most := int64(-1)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return 0, nil, err
		}
		used, err := strconv.ParseInt(string(bytes.Fields(text)[0]), 10, 64) // ns on the CPU
		if err != nil {
			return 0, nil, err
		}
		tid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return 0, nil, err
		}
		others = append(others, tid)
		if used > most {
			most, loop = used, tid
		}
	}
	return loop, slices.DeleteFunc(others, func(tid int) bool { return tid == loop }), nil
}

func halt(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return fmt.Errorf("seize: %w", err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("interrupt: %w", err)
	}
	return await(tid)
}

// errStalled is the error of a thread that waits for one of those that stand still:
// the loop's goroutine has moved to another.
var errStalled = errors.New("the thread waits")

// await waits until a thread has stopped, which it does at once.
func await(tid int) error {
	var status unix.WaitStatus
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		switch stopped, err := unix.Wait4(tid, &status, unix.WALL|unix.WNOHANG, nil); {
		case err == unix.EINTR, err == nil && stopped == 0:
			runtime.Gosched()
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case !status.Stopped():
			return fmt.Errorf("the server has ended: %v", status)
		default:
			return nil
		}
	}
	return errStalled
}

// readCode is the server's functions, by address.
func readCode(t *testing.T) (functions []elf.Symbol) {
	path, err := build()
	require.NoError(t, err)
	file, err := elf.Open(path)
	require.NoError(t, err)
	defer func() { assert.NoError(t, file.Close()) }()
	symbols, err := file.Symbols()
	require.NoError(t, err)
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC {
			functions = append(functions, s)
		}
	}
	slices.SortFunc(functions, func(a, b elf.Symbol) int { return cmp.Compare(a.Value, b.Value) })
	return functions
}

// perFunction counts the steps of each function, and the requests, from the first
// wait for events to the last one: in whole turns of the loop, since it takes a
// batch of events before it serves the first.
func perFunction(seen []step, code []elf.Symbol) (requests int, counts map[string]int) {
	counts = make(map[string]int)
	turn := make(map[string]int) // since the last wait
	served, waited := 0, false
	for i, s := range seen {
		at, exact := slices.BinarySearchFunc(code, s.ip, func(f elf.Symbol, ip uint64) int { return cmp.Compare(f.Value, ip) })
		if !exact {
			at--
		}
		name := "elsewhere" // the vDSO
		if at >= 0 && s.ip < code[at].Value+code[at].Size {
			name = code[at].Name
		}
		turn[name]++
		if i+1 == len(seen) || seen[i+1].ip != s.ip+syscallLength || !strings.Contains(name, "rawcall") && !strings.Contains(name, "yscall6") {
			continue
		}
		switch s.ax {
		case unix.SYS_RECVFROM:
			served++
		case unix.SYS_EPOLL_PWAIT:
			if waited {
				requests += served
				for name, n := range turn {
					counts[name] += n
				}
			}
			served, waited = 0, true
			clear(turn)
		}
	}
	return requests, counts
}

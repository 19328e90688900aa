package measure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// traceBound is how long strace may take to attach, and to detach.
const traceBound = 10 * time.Second

// A Tracer is an strace that counts the syscalls of a process.
type Tracer struct {
	cmd  *exec.Cmd
	out  *traceOutput
	done chan struct{} // closed when strace has ended
}

// StartTrace attaches strace to a process and its threads, and returns when it
// counts.
func StartTrace(ctx context.Context, pid int) (*Tracer, error) {
	t := &Tracer{
		cmd:  exec.Command("strace", "-c", "-f", "-p", strconv.Itoa(pid)),
		out:  &traceOutput{attached: make(chan struct{})},
		done: make(chan struct{}),
	}
	t.cmd.Env = append(os.Environ(), "LC_ALL=C")
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	t.cmd.WaitDelay = time.Second
	t.cmd.Stderr = t.out
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("strace: %w", err)
	}
	go func() {
		// How it ended does not matter: an strace ended by a signal says so here, and
		// what counts is whether there is a table.
		_ = t.cmd.Wait()
		close(t.done)
	}()
	timer := time.NewTimer(traceBound)
	defer timer.Stop()
	select {
	case <-t.out.attached:
		return t, nil
	case <-t.done:
		return nil, fmt.Errorf("strace: %s", strings.TrimSpace(t.out.String()))
	case <-timer.C:
		t.kill()
		return nil, errors.New("strace: did not attach in time")
	case <-ctx.Done():
		t.kill()
		return nil, ctx.Err()
	}
}

// Stop detaches and returns the calls by name.
func (t *Tracer) Stop() (map[string]int64, error) {
	if err := t.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.kill()
		return nil, fmt.Errorf("strace: %w", err)
	}
	timer := time.NewTimer(traceBound)
	defer timer.Stop()
	select {
	case <-t.done:
	case <-timer.C:
		t.kill()
		return nil, errors.New("strace: did not detach in time")
	}
	return ParseTrace(t.out.String())
}

// kill ends strace; the kernel detaches what it traced (ptrace(2)).
func (t *Tracer) kill() {
	// Fails only when it is gone, which is what is wanted.
	_ = t.cmd.Process.Kill()
	<-t.done
}

// ParseTrace reads the calls by name from the table of strace -c. A process that
// made no call has an empty table, which strace leaves out.
func ParseTrace(text string) (map[string]int64, error) {
	calls := make(map[string]int64)
	inside := false
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "% time"):
			inside = true
			continue
		case !inside || len(fields) < 5 || strings.HasPrefix(fields[0], "---"):
			continue
		}
		// % time, seconds, usecs/call, calls, errors (blank when none), syscall.
		name := fields[len(fields)-1]
		if name == "total" {
			break
		}
		n, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("strace: a line that is not understood: %q", strings.TrimSpace(line))
		}
		calls[name] += n
	}
	return calls, nil
}

// A traceOutput collects what strace writes and sees when it has attached.
type traceOutput struct {
	mu       sync.Mutex
	text     bytes.Buffer
	seen     bool
	attached chan struct{}
}

// Write never fails.
func (o *traceOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p) // never fails: bytes.Buffer
	if !o.seen && bytes.Contains(o.text.Bytes(), []byte(" attached")) {
		o.seen = true
		close(o.attached)
	}
	return len(p), nil
}

// String returns all of it.
func (o *traceOutput) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// CanTrace says why strace cannot be used here, by trying it on a process of
// its own making.
func CanTrace(ctx context.Context) error {
	p, err := StartProcess([]string{"cat"}, Options{})
	if err != nil {
		return err
	}
	defer p.Stop()
	t, err := StartTrace(ctx, p.PID())
	if err != nil {
		return err
	}
	_, err = t.Stop()
	return err
}

// Package measure starts and watches the processes of the benchmark and reads
// what the machine tells about them and about itself.
package measure

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process has to end by itself once its input has ended.
const stopGrace = 3 * time.Second

// lineBound is the number of lines of output that are kept while nobody reads them.
const lineBound = 64

// ErrTimeout is in the error of Process.Receive when the process said nothing in
// time.
var ErrTimeout = errors.New("no answer in time")

// A Process is a child that is spoken to in lines. Its input ends with this
// process, however that ends, and a child ends with its input (or is mute, see
// Options), so none is left behind.
type Process struct {
	cmd    *exec.Cmd
	mute   bool
	stdin  io.WriteCloser
	lines  chan []byte
	stderr *tail
	quit   chan struct{} // closed by Stop: output is no longer wanted
	done   chan struct{} // closed when the process has ended, after err is set
	err    error
	stop   sync.Once
}

// Options say how a process is started and ended.
type Options struct {
	// CPUs that it may use, any when there are none. GOMAXPROCS is their number.
	CPUs []int
	// Mute says that it does not read its input, so that SIGTERM ends it: from Stop,
	// or from the kernel when this process is gone.
	Mute bool
}

// StartProcess starts a command line.
func StartProcess(args []string, opts Options) (*Process, error) {
	cpus := opts.CPUs
	p := &Process{
		mute:   opts.Mute,
		cmd:    exec.Command(args[0], args[1:]...),
		lines:  make(chan []byte, lineBound),
		stderr: &tail{},
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	if len(cpus) > 0 {
		p.cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(len(cpus)))
	}
	// A group of its own: a ^C at the terminal is this process's to handle.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if opts.Mute {
		endWithParent(p.cmd.SysProcAttr)
	}
	p.cmd.WaitDelay = time.Second
	p.cmd.Stderr = p.stderr
	out, in := io.Pipe()
	p.cmd.Stdout = in
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := pinned(cpus, p.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", args[0], err), p.stdin.Close())
	}
	go p.read(out)
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
		in.Close() // never fails: PipeWriter.Close
	}()
	return p, nil
}

func (p *Process) read(out *io.PipeReader) {
	defer close(p.lines)
	defer out.Close() // never fails: PipeReader.Close
	for in := bufio.NewReader(out); ; {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // the end of the output; a line cut short says nothing
		}
		select {
		case p.lines <- line:
		case <-p.quit:
			return
		}
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Send writes to the process's input.
func (p *Process) Send(b []byte) error {
	if _, err := p.stdin.Write(b); err != nil {
		return fmt.Errorf("write to its input: %w", err)
	}
	return nil
}

// Receive returns the next line of the process's output. The result is one of:
// the line; an error with ErrTimeout after that time; the context's error; what
// Ended says when the process has ended.
func (p *Process) Receive(ctx context.Context, timeout time.Duration) ([]byte, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case line, ok := <-p.lines:
		if ok {
			return line, nil
		}
		if err := p.Ended(timeout); err != nil {
			return nil, err
		}
		return nil, errors.New("closed its output")
	case <-timer.C:
		return nil, fmt.Errorf("%w: %v", ErrTimeout, timeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Ended waits that long for the process to end, and returns how it ended with
// the essence of its standard error, or nil when it still runs.
func (p *Process) Ended(wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		select {
		case <-p.done: // both at once
		default:
			return nil
		}
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if said := p.stderr.String(); said != "" {
		how += ": " + said
	}
	return errors.New("ended: " + how)
}

// Stderr returns the essence of what the process has written to its standard
// error.
func (p *Process) Stderr() string { return p.stderr.String() }

// Stop ends the process: its input ends, and after a grace period it is killed.
// It returns when the process is gone. May be called more than once.
func (p *Process) Stop() {
	p.stop.Do(func() {
		close(p.quit)
		// Both fail only when the process is gone, which is what is wanted.
		_ = p.stdin.Close()
		if p.mute {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
		if p.Ended(stopGrace) == nil {
			p.Kill()
		}
	})
	<-p.done
}

// Kill ends the process at once.
func (p *Process) Kill() {
	// Fails only when the process is gone, which is what is wanted.
	_ = p.cmd.Process.Kill()
}

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is a process of this program in another role, as its parent sees it.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	mu   sync.Mutex // one order at a time
	dead error
}

// answerTime is how long an answer may take. A machine that is this slow gives
// no figures.
const answerTime = time.Minute

// startChild starts this program in a role, with more in its environment.
func startChild(role string, env ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self)}
	c.cmd.Env = append(append(os.Environ(), roleVar+"="+role), env...)
	c.cmd.Stderr = os.Stderr
	// A group of its own: a ^C at the terminal is the parent's to handle.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	return c, c.cmd.Start()
}

// line is the next line of its output. One that does not come in time ends the
// process.
func (c *child) line() (string, error) {
	late := time.AfterFunc(answerTime, func() { _ = c.cmd.Process.Kill() }) // or it has ended
	defer late.Stop()
	text, err := c.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("the process has ended, or was silent for %v: %w", answerTime, err)
	}
	return strings.TrimSuffix(text, "\n"), nil
}

// order has the server do something. Any goroutine.
func (c *child) order(o order) (a answer, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return a, c.dead
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("order %s: %w", o.Do, err)
			c.dead = err
		}
	}()
	text, err := json.Marshal(o)
	if err != nil {
		return a, err
	}
	if _, err = c.in.Write(append(text, '\n')); err != nil {
		return a, err
	}
	said, err := c.line()
	if err != nil {
		return a, err
	}
	if err = json.Unmarshal([]byte(said), &a); err != nil {
		return a, err
	}
	if a.Err != "" {
		return a, errors.New(a.Err)
	}
	return a, nil
}

// stop ends the process by the end of its input, and returns how it has ended.
func (c *child) stop() error {
	err := c.in.Close()
	late := time.AfterFunc(answerTime, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	return errors.Join(err, c.cmd.Wait())
}

package load

import (
	"errors"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// clockLag is how far the CPU clock of another process that runs may lag behind:
// the kernel brings it up to date when a thread stops running, and otherwise at
// each tick of its timer, of which there are 100 to 1,000 a second.
const clockLag = 10 * time.Millisecond

// run measures one window. The CPU clocks are read right before the first send
// and clockLag after the last receive: the server has by then done what was left
// to do, and all that it did is on its clock. After the window's length nothing
// new is sent, and what is under way is awaited; it counts, and so does the time
// until the last of it is back. So what was sent is what is counted, and between
// windows nothing is under way and the server is idle. (When datagrams are lost at
// the end, Elapsed ends with the last that came, not with the wait for the others.)
//
// A pid of 0 reads no clock of a server.
func (c *client) run(window time.Duration, pid int) (Window, error) {
	if err := c.runnable(window, pid); err != nil {
		return Window{}, fmt.Errorf("run: %w", err)
	}
	// What comes now, nobody has asked for; and a connection may be closed.
	if err := c.turn(0); err != nil {
		return Window{}, err
	}
	c.hist.Reset()
	client, err := cpuTime(0)
	if err != nil {
		return Window{}, err
	}
	server, err := serverTime(pid)
	if err != nil {
		return Window{}, err
	}
	drive := c.drive
	if c.spec.Kind == Paced {
		drive = c.drivePaced
	}
	elapsed, err := drive(window)
	if err != nil {
		return Window{}, err
	}
	if pid != 0 {
		time.Sleep(clockLag)
	}
	server2, err := serverTime(pid)
	if err != nil {
		return Window{}, err
	}
	client2, err := cpuTime(0)
	if err != nil {
		return Window{}, err
	}
	if err := c.turn(0); err != nil {
		return Window{}, err
	}
	if c.done == 0 {
		return Window{}, fmt.Errorf("nothing came back in a window of %v", window)
	}
	latency, err := c.hist.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return Window{}, fmt.Errorf("latencies: %w", err)
	}
	return Window{
		Requests: c.done, Elapsed: elapsed, CPU: server2 - server, Client: client2 - client,
		Lost: c.lost, Latency: latency,
	}, nil
}

func (c *client) runnable(window time.Duration, pid int) error {
	switch {
	case c.begin == nil:
		return errors.New("nothing is open")
	case c.spec.Conns == 0:
		return errors.New("there are idle connections only")
	case window <= 0:
		return fmt.Errorf("a window of %v", window)
	case pid < 0:
		return fmt.Errorf("process %d", pid)
	}
	return nil
}

// serverTime is the CPU time of the server, 0 when its process is not known.
func serverTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	return cpuTime(pid)
}

// drive keeps the load up for a window and returns the time from the first send
// to the last receive. It allocates nothing.
func (c *client) drive(window time.Duration) (time.Duration, error) {
	c.done, c.lost = 0, 0
	start := c.clock()
	c.now, c.progress, c.stop = start, start, start+int64(window)
	for c.now < c.stop { // more than once for fan-out only, where each turn is a message
		if err := c.begin(); err != nil {
			return 0, err
		}
		if err := c.await(); err != nil {
			return 0, err
		}
	}
	return time.Duration(c.progress - start), nil
}

// exchange awaits what is under way outside of a window: nothing replaces it.
func (c *client) exchange() error {
	c.now = c.clock()
	c.progress, c.stop = c.now, 0
	return c.await()
}

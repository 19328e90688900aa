package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The role that floods, once it has said that it is ready: connections over which it sends as much as they take,
// and reads what comes back, as fast as it can; or datagrams. It never waits for
// an answer. It runs when those who measure do not, so that they do not wait for
// it on the processor that the clients share.

// flooderConfig is what a flooder is started with.
type flooderConfig struct {
	Addr  netip.AddrPort
	Conns int
	Chunk int // bytes of one write, or of a datagram
	Want  byte
	UDP   bool
}

// flooderCommand has it flood for so long.
type flooderCommand struct{ For time.Duration }

// flood is the answer: what it has moved, and what for.
type flood struct {
	Sent, Received int // bytes
	Begun          time.Time
	Took           time.Duration
	Slices         []int // bytes sent in each floodSlice since then
}

const floodSlice = 2 * time.Millisecond

// during is how many bytes were sent in the slices that lie between two times, and
// the share of those slices in which any were.
func (f flood) during(from, to time.Time) (sent int, share float64) {
	some := 0
	for i, n := range f.Slices {
		if at := f.Begun.Add(time.Duration(i) * floodSlice); !at.Before(from) && !at.Add(floodSlice).After(to) {
			sent += n
			if n > 0 {
				some++
			}
		}
	}
	return sent, float64(some) / float64(to.Sub(from)/floodSlice)
}

func flooderRole(in *json.Decoder, out *json.Encoder) error {
	var config flooderConfig
	if err := in.Decode(&config); err != nil {
		return err
	}
	runtime.LockOSThread() // the only thread that does anything
	if err := yieldToOthers(); err != nil {
		return err
	}
	var fds []unix.PollFd
	for range config.Conns {
		fd, err := config.connect()
		if err != nil {
			return err
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT})
	}
	if err := out.Encode(struct{}{}); err != nil { // it is ready
		return err
	}
	for {
		var c flooderCommand
		if err := in.Decode(&c); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		f, err := config.flood(fds, c.For)
		if err != nil {
			return err
		}
		if err := out.Encode(f); err != nil {
			return err
		}
	}
}

// yieldToOthers has the calling thread run only when no other wants to
// (SCHED_IDLE, sched(7)). Niceness would not do: one that is nicer keeps the
// processor until its slice of some milliseconds is over.
func yieldToOthers() error {
	idle := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	return os.NewSyscallError("sched_setattr", unix.SchedSetAttr(0, &idle, 0))
}

func (config flooderConfig) connect() (fd int, err error) {
	if config.UDP {
		if fd, err = bindUDP(); err != nil {
			return -1, err
		}
		return fd, os.NewSyscallError("connect", unix.Connect(fd, sockaddr(config.Addr)))
	}
	if fd, err = dial(config.Addr, 0, 0); err != nil {
		return -1, err
	}
	_, err = unix.Write(fd, []byte{config.Want})
	return fd, os.NewSyscallError("write", err)
}

// flood goes round its sockets: one write and one read of each that takes or has
// something.
func (config flooderConfig) flood(fds []unix.PollFd, d time.Duration) (f flood, err error) {
	chunk, room := make([]byte, config.Chunk), make([]byte, 64<<10)
	f.Begun = time.Now()
	for ; f.Took < d; f.Took = time.Since(f.Begun) {
		for len(f.Slices) <= int(f.Took/floodSlice) {
			f.Slices = append(f.Slices, 0)
		}
		moved := false
		for _, p := range fds {
			n, err := unix.Write(int(p.Fd), chunk)
			switch {
			case err == nil:
				f.Sent += n
				f.Slices[len(f.Slices)-1] += n
				moved = true
			case err != unix.EAGAIN && err != unix.EINTR && err != unix.ENOBUFS:
				return f, fmt.Errorf("write: %w", err)
			}
			n, err = unix.Read(int(p.Fd), room)
			switch {
			case err == nil && n > 0:
				f.Received += n
				moved = true
			case err != unix.EAGAIN && err != unix.EINTR:
				return f, fmt.Errorf("%d bytes read: %w", n, err)
			}
		}
		if !moved {
			if _, err := awaitFDs(fds, 10*time.Millisecond); err != nil {
				return f, err
			}
		}
	}
	return f, drain(fds, room)
}

// drain reads until nothing has come for a while: then the server is done with the
// flood.
func drain(fds []unix.PollFd, room []byte) error {
	coming := slices.Clone(fds)
	for i := range coming {
		coming[i].Events = unix.POLLIN
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		n, err := awaitFDs(coming, 30*time.Millisecond)
		if err != nil || n == 0 {
			return err
		}
		for _, p := range coming {
			n, err := unix.Read(int(p.Fd), room)
			if n == 0 || err != nil && err != unix.EAGAIN && err != unix.EINTR {
				return fmt.Errorf("%d bytes read: %w", n, err)
			}
		}
	}
	return nil
}

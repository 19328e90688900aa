//go:build linux || darwin

package stepio

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// Datagrams in batches. Each has a buffer, an address and an outcome of its own:
// what befalls one stops no other.

// A Datagram is one of a batch.
//
// Reading fills Data up to its capacity and sets its length, and the other
// fields. Writing sends Data, up to its length, to Addr, and sets Err.
type Datagram struct {
	Data      []byte
	Addr      netip.AddrPort // the sender, or the receiver; a connected socket's peer need not be told
	Truncated bool           // reading: it was longer than there was room for, and the rest is lost
	Err       error          // writing: why it was not sent, a *net.OpError as of WriteTo; nil when it was
}

// maxBatch is how many datagrams one syscall moves at most.
const maxBatch = 64

// datagramCost is what a datagram of a batch takes from the step's budget at
// least, in bytes, however short it is: half of what one operation may move on
// average. A syscall of its own would be the other half.
const datagramCost = sm.DefaultMaxBytes / sm.DefaultMaxOps / 2

// NewBatch makes n datagrams, with room for size bytes each, for ReadBatch and
// ReadFromET. They share one array and never overlap: appending to one does not
// reach the next. It panics when n or size is not positive. Any goroutine.
func NewBatch(n, size int) []Datagram {
	if n <= 0 || size <= 0 {
		panic(fmt.Sprintf("stepio: NewBatch: %d datagrams of %d bytes", n, size))
	}
	room := make([]byte, n*size)
	ds := make([]Datagram, n)
	for i := range ds {
		ds[i].Data = room[i*size : i*size : (i+1)*size]
	}
	return ds
}

// ReadBatch takes the datagrams that have arrived, at most len(ds) and 64, into
// ds, and never waits. It is one operation and on Linux one syscall,
// recvmmsg(2); on macOS it makes a call for each. Each datagram takes at least
// 1 KiB from the step's budget of bytes.
//
// The result is one of: n > 0 and nil: ds[:n] are set; 0 and an error of
// ReadFrom. Datagrams that arrived before an error are returned first, the error
// is the next call's. A datagram that was longer than its Data is marked
// Truncated. Empty ds, and a Data without capacity, panic. Loop only.
func (c *UDPConn) ReadBatch(ds []Datagram) (n int, err error) {
	c.loop.owner.check("UDPConn.ReadBatch")
	if len(ds) == 0 {
		panic("stepio: UDPConn.ReadBatch: empty batch")
	}
	ds = ds[:min(len(ds), maxBatch)]
	for i := range ds {
		if cap(ds[i].Data) == 0 {
			panic(fmt.Sprintf("stepio: UDPConn.ReadBatch: no room in datagram %d", i))
		}
	}
	s, err := c.beginRead()
	if err != nil {
		return 0, err
	}
	n, errno := c.loop.sys.receiveBatch(int(c.fd), ds, c.loop.batches())
	switch {
	case n == 0:
		return 0, c.readFailed(s, "recvmmsg", errno)
	case errno == unix.EAGAIN && s.flags&slotRestless == 0:
		s.readEmptied()
	case errno == unix.EAGAIN || errno == 0:
		// Full; or recvmmsg has stopped short at an error that it does not tell
		// (see slotRestless), and has kept it.
		s.readStopped()
	default:
		c.errno = uint16(errno)
		s.readStopped()
	}
	for i := range ds[:n] {
		if !ds[i].Addr.IsValid() {
			ds[i].Addr = c.peer
		}
	}
	c.spend(ds[:n])
	return n, nil
}

// ReadFromET drains the socket into ds for an edge-triggered reader: it reads
// until nothing more has arrived, ds is full, or the step's budget is used up.
// In the last two cases the edge is not lost: the next wait for c.ReadableET()
// finds it. Each datagram is in a Data of its own.
//
// The results are those of ReadBatch, with ReadableET, and n may be over 64.
// Loop only.
func (c *UDPConn) ReadFromET(ds []Datagram) (n int, err error) {
	for n < len(ds) || n == 0 {
		m, err := c.ReadBatch(ds[n:])
		n += m
		if err == nil {
			continue
		}
		if n == 0 {
			return 0, err
		}
		if err != ErrWouldBlock {
			c.postpone(err)
		}
		break
	}
	return n, nil
}

// WriteBatch sends ds in order and never waits. On Linux 64 datagrams are one
// operation and one syscall, sendmmsg(2), and each that fails begins another; on
// macOS it makes a call for each. Each datagram takes at least 1 KiB from the
// step's budget of bytes.
//
// The result is one of: len(ds) and nil; less, perhaps 0, and ErrWouldBlock when
// the socket takes no more, or the step's budget is used up: return c.Writable()
// and go on with ds[n:]; less and a *net.OpError that is
// os.ErrDeadlineExceeded or net.ErrClosed. The n datagrams are done with: the
// Err of each says whether it was sent. An error of one stops nothing: see
// WriteTo. Loop only.
func (c *UDPConn) WriteBatch(ds []Datagram) (n int, err error) {
	l := c.loop
	l.owner.check("UDPConn.WriteBatch")
	if err := c.beginWrite(); err != nil {
		return 0, err
	}
	for n < len(ds) {
		run, err := c.sendable(ds[n:])
		if err != nil {
			ds[n].Err = err
			n++
			continue
		}
		if !l.sched.Admit() {
			c.slot().writeStopped() // likewise
			return n, ErrWouldBlock
		}
		sent, errno := l.sys.sendBatch(int(c.fd), run, int(c.family), l.batches())
		for i := range run[:sent] {
			run[i].Err = nil
		}
		c.spend(run[:sent])
		n += sent
		switch errno {
		case 0:
		case unix.EAGAIN:
			if sent == 0 {
				l.sched.Refund()
			}
			c.slot().edges &^= sm.Write
			return n, ErrWouldBlock
		default:
			ds[n].Err = c.writeFailed(ds[n].Addr, os.NewSyscallError("sendmmsg", errno))
			n++
		}
	}
	return n, nil
}

// sendable is the beginning of ds that can be given to the kernel at once, or
// why the first cannot: a connected socket sends to its peer only.
func (c *UDPConn) sendable(ds []Datagram) ([]Datagram, error) {
	ds = ds[:min(len(ds), maxBatch)]
	if !c.peer.IsValid() {
		return ds, nil
	}
	for i := range ds {
		if to := unmapped(ds[i].Addr); to.IsValid() && to != c.peer {
			if i == 0 {
				return nil, c.writeFailed(to, net.ErrWriteToConnected)
			}
			return ds[:i], nil
		}
	}
	return ds, nil
}

// spend takes a batch from the step's budget.
func (c *UDPConn) spend(ds []Datagram) {
	cost := 0
	for i := range ds {
		cost += max(len(ds[i].Data), datagramCost)
	}
	c.loop.sched.Spend(cost)
}

// batches is what the loop keeps for batches of datagrams.
func (l *Loop) batches() *batchBuffers {
	if l.batch == nil {
		l.batch = newBatchBuffers()
	}
	return l.batch
}

package parked

import (
	"fmt"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// poller stands for the loop's poller and its table of descriptors: an event is
// made by calling ready, and there is nothing to read behind it.
type poller struct {
	pieces  []*[pieceLength]slot
	stepped []uint8 // steps by descriptor: what the frames have done, not what they cost
}

// slot has the size and the shape of the loop's.
type slot struct {
	waiters sm.Waiters
	gen     uint32
	armed   sm.Dir
	_       sm.Dir // edges
	_       uint8  // flags
}

// pieceLength is how many slots the table grows by, as in the loop. A piece never
// moves.
const pieceLength = 2048

// at is the slot of fd, made when fd is seen for the first time.
func (p *poller) at(fd int) *slot {
	piece := fd / pieceLength
	for piece >= len(p.pieces) {
		p.pieces = append(p.pieces, new([pieceLength]slot))
	}
	return &p.pieces[piece][fd%pieceLength]
}

// Park implements sm.Parker.
func (p *poller) Park(t *sm.Task, a sm.Await) error {
	if a.FD() < 0 || a.Edge() {
		return fmt.Errorf("parked: a task waits for %v", a)
	}
	s := p.at(a.FD())
	s.armed |= a.Dir()
	s.waiters.Add(t)
	return nil
}

// Unpark implements sm.Parker.
func (p *poller) Unpark(t *sm.Task, fd int) { p.at(fd).waiters.Remove(t) }

// Return implements sm.Parker. No wait is edge-triggered, so there is nothing to
// remember.
func (p *poller) Return(int, sm.Dir) {}

// ready is an event of fd.
func (p *poller) ready(fd int, gen uint32) {
	if s := p.at(fd); s.gen == gen {
		s.waiters.Resume(sm.Read)
	}
}

// conn has the size and the shape of a stepio.TCPConn.
type conn struct {
	poller *poller
	_      *[6]uint64 // deadlines
	fd     int32
	_      uint16 // errno
}

// read finds nothing: the event was not followed by a byte.
func (c *conn) read([]byte) (int, error) {
	c.poller.stepped[c.fd]++
	return 0, stepio.ErrWouldBlock
}

// echo has the size and the shape of the frame of examples/tcp_echo_server, up to
// where that would have something to send.
type echo struct {
	conn *conn
	_    stepio.WriteAll // out
	_    uint8           // state
}

// Step reads, and waits again.
func (e *echo) Step(t *sm.Task) sm.Await {
	if _, err := e.conn.read(t.Scratch()); err != stepio.ErrWouldBlock {
		return sm.Done
	}
	return sm.Wait(int(e.conn.fd), sm.Read)
}

package load

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// scanEvery is how often the datagrams under way are looked at for losses, in
// nanoseconds.
const scanEvery = 20_000_000

// datagrams is the handler of UDP: connected sockets with depth slots each. A
// slot has one datagram under way; the datagrams of slot k are numbered k,
// k+depth, k+2*depth and so on, so that an answer's number leads to its slot.
type datagrams struct {
	c       *client
	p       *pattern
	depth   int
	renew   bool // whether what came back is replaced
	fds     []int32
	slots   []slot // depth for each socket
	scanned int64  // when slots were last looked at

	// late has the names of lost datagrams: should one come after all, that is
	// not the error which a second copy is. Each slot adds five a second at
	// most, of a server that answers nothing.
	late map[uint64]struct{}

	in, out vector
}

// A slot is the place of one datagram.
type slot struct {
	sent int64  // when it was sent; 0: nothing is under way
	seq  uint32 // the number of the last that was sent
}

func (c *client) openDatagrams() error {
	n, depth := c.spec.Conns, c.spec.Depth
	d := &datagrams{
		c: c, p: newPattern(c.spec.Size), depth: depth, late: map[uint64]struct{}{},
		slots: make([]slot, n*depth),
		in:    newVector(depth, c.spec.Size+1), // one byte more shows what is too long
		out:   newVector(depth, c.spec.Size),
	}
	for k := range d.slots {
		d.slots[k].seq = uint32(k%depth - depth) // so that the first is k
	}
	c.handlers[active], c.udp, c.begin = d, d, d.begin
	for i := range uint32(n) {
		fd, err := c.socket(unix.SOCK_DGRAM)
		if err != nil {
			return d.fail(i, err)
		}
		d.fds = append(d.fds, fd)
		if err := c.arm(unix.EPOLL_CTL_ADD, fd, active, i, unix.EPOLLIN); err != nil {
			return d.fail(i, err)
		}
	}
	for i := 0; i < n; i += batch {
		if err := d.greet(i, min(i+batch, n)); err != nil {
			return err
		}
	}
	d.renew = true
	return nil
}

func (d *datagrams) fail(i uint32, err error) error { return fmt.Errorf("socket %d: %w", i, err) }

// greet makes one exchange on each of some sockets. Until stop, what is lost is
// sent again.
func (d *datagrams) greet(from, to int) error {
	c := d.c
	c.now = c.clock()
	c.progress, c.stop, c.done = c.now, c.now+int64(c.stall), 0
	for i := from; i < to; i++ {
		if err := d.send(uint32(i), 0, c.now); err != nil {
			return err
		}
	}
	if err := c.await(); err != nil {
		return err
	}
	if c.done < int64(to-from) {
		return fmt.Errorf("no answer in %v on %d of %d sockets", c.stall, int64(to-from)-c.done, to-from)
	}
	return nil
}

// begin sends the first datagrams of a window.
func (d *datagrams) begin() error {
	for i := range uint32(len(d.fds)) {
		now := d.c.clock()
		for k := range d.depth {
			d.put(i, k, now)
		}
		if err := d.flush(i); err != nil {
			return err
		}
	}
	return nil
}

// put makes the next datagram of slot k of socket i and adds it to out.
func (d *datagrams) put(i uint32, k int, now int64) {
	s := &d.slots[int(i)*d.depth+k]
	s.seq += uint32(d.depth)
	s.sent = now
	d.p.fill(d.out.add(), head(i, s.seq), 0)
	d.c.under++
}

// flush sends out.
func (d *datagrams) flush(i uint32) error {
	if err := d.out.send(d.fds[i]); err != nil {
		return d.fail(i, fmt.Errorf("send: %w", err))
	}
	return nil
}

// send sends the next datagram of one slot.
func (d *datagrams) send(i uint32, k int, now int64) error {
	d.put(i, k, now)
	return d.flush(i)
}

// ready takes as many datagrams as can be under way, in one call.
func (d *datagrams) ready(i, _ uint32) error {
	c := d.c
	n, errno := d.in.receive(d.fds[i])
	if errno == unix.EAGAIN {
		return nil
	}
	if errno != 0 {
		return d.fail(i, fmt.Errorf("receive: %w", errno))
	}
	c.now = c.clock()
	c.progress = c.now
	again := d.renew && c.now < c.stop
	for j := range n {
		k, err := d.take(i, d.in.datagram(j))
		if err != nil {
			return d.fail(i, err)
		}
		if k >= 0 && again {
			d.put(i, k, c.now)
		}
	}
	return d.flush(i)
}

// take verifies one datagram and returns its slot, -1 when that had been
// declared lost.
func (d *datagrams) take(i uint32, b []byte) (int, error) {
	if len(b) != d.p.size {
		return 0, fmt.Errorf("expected a datagram of %d bytes, got %d or more", d.p.size, len(b))
	}
	h := binary.LittleEndian.Uint64(b)
	seq := uint32(h)
	if err := d.p.check(b, head(i, seq), 0); err != nil {
		return 0, err
	}
	k := int(seq) % d.depth
	s := &d.slots[int(i)*d.depth+k]
	if s.seq != seq || s.sent == 0 {
		if _, ok := d.late[h]; ok {
			delete(d.late, h)
			return -1, nil
		}
		if int32(seq-s.seq) > 0 {
			return 0, fmt.Errorf("datagram %d came, which was never sent", seq)
		}
		return 0, fmt.Errorf("datagram %d came twice", seq)
	}
	sent := s.sent
	s.sent = 0
	d.c.under--
	return k, d.c.record(sent)
}

// scan counts what has not come back in time as lost, and replaces it until the
// window ends.
func (d *datagrams) scan() error {
	c := d.c
	if c.now-d.scanned < scanEvery {
		return nil
	}
	d.scanned = c.now
	for j := range d.slots {
		s := &d.slots[j]
		if s.sent == 0 || c.now-s.sent < int64(c.loss) {
			continue
		}
		i, k := uint32(j/d.depth), j%d.depth
		d.late[head(i, s.seq)] = struct{}{}
		s.sent = 0
		c.lost++
		c.under--
		if c.now < c.stop {
			if err := d.send(i, k, c.now); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *datagrams) unanswered() (k, n int) {
	for i := range d.fds {
		for _, s := range d.slots[i*d.depth:][:d.depth] {
			if s.sent != 0 {
				k++
				break
			}
		}
	}
	return k, len(d.fds)
}

func (d *datagrams) close() error {
	var errs []error
	for _, fd := range d.fds {
		errs = append(errs, d.c.closeSocket(fd))
	}
	d.fds = nil
	return errors.Join(errs...)
}

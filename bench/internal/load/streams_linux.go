package load

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// A stream is one TCP connection. Messages are counted from 0 on each.
type stream struct {
	fd      int32  // -1: closed
	armed   uint32 // what epoll waits for
	want    uint32 // messages that were begun
	sent    uint32 // messages that the kernel has taken
	sentOff uint32 // and bytes of the next
	got     uint32 // answers that have come whole
	gotOff  uint32 // and bytes of the next
}

// A protocol says what goes over a stream.
type protocol interface {
	// length is the size of every message that is sent.
	length() int
	// next is what is to be sent now, from the byte after the last sent. It
	// is not empty, and good until the next call.
	next(id uint32, s *stream) []byte
	// take verifies what came and counts the answers that are whole.
	take(id uint32, s *stream, data []byte) (done int, err error)
}

// What a group does when an answer is whole and the window has not ended.
type renewal int

const (
	rest      renewal = iota // nothing
	resend                   // sends another message
	reconnect                // resets the connection, and connects and sends again
)

// A group is streams of one class.
type group struct {
	c       *client
	class   uint32
	name    string // for errors
	proto   protocol
	depth   int // messages under way on a stream at most
	renewal renewal
	streams []stream
	stamps  []int64 // when the messages under way were begun: depth for each stream
}

func (g *group) id(i uint32) uint32 { return g.class<<classShift | i }

// fail says which connection an error is of.
func (g *group) fail(i uint32, err error) error { return fmt.Errorf("%s %d: %w", g.name, i, err) }

// grow opens connections until there are n, each with one verified exchange.
func (g *group) grow(n int) error {
	g.streams = slices.Grow(g.streams, n-len(g.streams))
	for len(g.streams) < n {
		for range min(batch, n-len(g.streams)) {
			i := uint32(len(g.streams))
			g.streams = append(g.streams, stream{fd: -1})
			g.stamps = append(g.stamps, make([]int64, g.depth)...)
			if err := g.connect(i); err != nil {
				return err
			}
		}
		if err := g.c.exchange(); err != nil {
			return err
		}
	}
	return nil
}

// shrink closes the last connections until there are n.
func (g *group) shrink(n int) error {
	var errs []error
	for i := n; i < len(g.streams); i++ {
		errs = append(errs, g.hangUp(uint32(i)))
	}
	g.streams = g.streams[:min(n, len(g.streams))]
	g.stamps = g.stamps[:len(g.streams)*g.depth]
	return errors.Join(errs...)
}

// connect opens stream i and sends one message, now or as soon as the
// connection stands.
func (g *group) connect(i uint32) error {
	now := g.c.clock()
	fd, err := g.c.socket(unix.SOCK_STREAM)
	if err != nil {
		return g.fail(i, err)
	}
	s := &g.streams[i]
	s.fd, s.armed = fd, 0
	return g.send(i, 1, now)
}

// reconnect is hangUp and connect with the same socket. On the wire that is all
// the same, a reset and a handshake from a new port, but the client saves half of
// its syscalls, so that it is the server whose limit Churn finds.
func (g *group) reconnect(i uint32) error {
	s := &g.streams[i]
	if err := sysDisconnect(s.fd); err != nil {
		return g.fail(i, err)
	}
	now := g.c.clock()
	if err := sysConnect(s.fd, &g.c.sockaddr); err != nil {
		return g.fail(i, err)
	}
	return g.send(i, 1, now)
}

// hangUp closes stream i with a reset.
func (g *group) hangUp(i uint32) error {
	s := &g.streams[i]
	if s.fd < 0 {
		return nil
	}
	fd := s.fd
	s.fd, s.armed = -1, 0 // a closed descriptor is no longer in epoll
	if err := g.c.closeSocket(fd); err != nil {
		return g.fail(i, err)
	}
	return nil
}

// send begins n messages on stream i.
func (g *group) send(i uint32, n int, now int64) error {
	g.expect(i, n, now)
	return g.flush(i)
}

// expect counts n messages on stream i as begun now.
func (g *group) expect(i uint32, n int, now int64) {
	s := &g.streams[i]
	for range n {
		g.stamps[int(i)*g.depth+int(s.want)%g.depth] = now
		s.want++
	}
	g.c.under += n
}

// flush sends what the socket takes, and has epoll wait for room when that is
// not all. A connection that is not up yet takes nothing: EAGAIN.
//
// Registrations are edge-triggered, which spares the kernel a second look at each
// socket that it has reported (ep_send_events, fs/eventpoll.c).
func (g *group) flush(i uint32) error {
	s := &g.streams[i]
	mask := uint32(unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET)
	for s.sent != s.want {
		b := g.proto.next(g.id(i), s)
		n, errno := sysSend(s.fd, b)
		if errno != 0 && errno != unix.EAGAIN {
			return g.fail(i, fmt.Errorf("send: %w", errno))
		}
		length := g.proto.length()
		off := int(s.sentOff) + n
		s.sent, s.sentOff = s.sent+uint32(off/length), uint32(off%length)
		if n < len(b) {
			mask |= unix.EPOLLOUT
			break
		}
	}
	if s.armed == mask {
		return nil
	}
	op := unix.EPOLL_CTL_MOD
	if s.armed == 0 {
		op = unix.EPOLL_CTL_ADD
	}
	s.armed = mask
	return g.c.arm(op, s.fd, g.class, i, mask)
}

// ready handles one event of stream i: it receives what has come, and does what the
// group's renewal says for each answer that is whole. A resend goes by one function,
// and what is called besides has returned before it: each return after a syscall is a
// cold one.
func (g *group) ready(i, events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := g.flush(i); err != nil {
			return err
		}
	}
	if events&^unix.EPOLLOUT == 0 {
		return nil
	}
	for {
		n, done, err := g.receive(i)
		if n == 0 {
			return err
		}
		switch {
		case done == 0 || g.renewal == rest:
		case g.renewal == reconnect:
			return g.another(i)
		case g.c.now < g.c.stop:
			now := g.c.now
			if n > 4<<10 {
				now = g.c.clock()
			}
			g.expect(i, done, now)
			if err := g.flush(i); err != nil {
				return err
			}
		}
		if events&^(unix.EPOLLOUT|unix.EPOLLIN) != 0 {
			continue // the end was reported too: data and FIN in one event make no second edge
		}
		if n < len(g.c.buf) {
			// After a short read nothing is left. (Urgent data would be an exception, which no
			// server here sends.)
			return nil
		}
		// There may be more. The kernel looks anew, and the others have their turn first.
		s := &g.streams[i]
		if err := g.c.arm(unix.EPOLL_CTL_MOD, s.fd, g.class, i, s.armed); err != nil {
			return g.fail(i, err)
		}
		return nil
	}
}

// receive takes what has come on stream i, in one call, and records the answers that
// are whole. n is how many bytes came, and done how many answers. n is 0 with an
// error, and with nil when there was nothing.
func (g *group) receive(i uint32) (n, done int, err error) {
	c, s := g.c, &g.streams[i]
	n, errno := sysRecv(s.fd, c.buf)
	if errno == unix.EAGAIN {
		return 0, 0, nil
	}
	if errno != 0 {
		return 0, 0, g.fail(i, fmt.Errorf("receive: %w", errno))
	}
	if n == 0 {
		return 0, 0, g.fail(i, fmt.Errorf("closed by the server, with %d of %d answers sent", s.got, s.want))
	}
	c.now = c.clock()
	c.progress = c.now
	first := int(s.got)
	done, err = g.proto.take(g.id(i), s, c.buf[:n])
	if err != nil {
		return 0, 0, g.fail(i, err)
	}
	for k := range done {
		if err := c.record(g.stamps[int(i)*g.depth+(first+k)%g.depth]); err != nil {
			return 0, 0, g.fail(i, err)
		}
	}
	c.under -= done
	return n, done, nil
}

// another puts a new connection in the place of stream i, until the window ends.
func (g *group) another(i uint32) error {
	if g.c.now < g.c.stop {
		return g.reconnect(i)
	}
	return g.hangUp(i)
}

func (g *group) unanswered() (k, n int) {
	for i := range g.streams {
		if g.streams[i].got != g.streams[i].want {
			k++
		}
	}
	return k, len(g.streams)
}

func (g *group) close() error { return g.shrink(0) }

// protocolOf is the protocol of a load's streams and idle connections; n is how
// many there may be.
func (c *client) protocolOf(n, depth int) protocol {
	if c.spec.Kind == HTTP {
		return newRequests(c.spec.Addr, n, depth)
	}
	return newMessages(c.spec.Size, depth)
}

// openStreams opens the connections of Echo, Paced and HTTP. Those of Churn come and
// go; one exchange shows that the server is there.
func (c *client) openStreams() error {
	g := &group{
		c: c, class: active, name: "connection", proto: c.protocolOf(c.spec.Conns, c.spec.Depth),
		depth: c.spec.Depth, renewal: resend,
	}
	switch c.spec.Kind {
	case Churn:
		g.renewal = reconnect
	case Paced:
		g.renewal = rest
	}
	c.handlers[active] = g
	c.begin = g.begin
	if c.spec.Kind != Churn {
		return g.grow(c.spec.Conns)
	}
	for range c.spec.Conns {
		g.streams = append(g.streams, stream{fd: -1})
	}
	g.stamps = make([]int64, c.spec.Conns)
	if err := g.connect(0); err != nil {
		return err
	}
	return c.exchange()
}

// begin sends the first messages of a window.
func (g *group) begin() error {
	for i := range uint32(len(g.streams)) {
		var err error
		if g.renewal == reconnect {
			err = g.connect(i)
		} else {
			err = g.send(i, g.depth, g.c.clock())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setIdle brings the connections that do nothing to n.
func (c *client) setIdle(n int) error {
	switch {
	case c.begin == nil:
		return errors.New("idle: nothing is open")
	case n < 0 || n > indexMask:
		return fmt.Errorf("idle: %d connections", n)
	case c.spec.Kind == UDP || c.spec.Kind == Fanout:
		return fmt.Errorf("idle: not with %s", c.spec.Kind)
	}
	g, ok := c.handlers[idle].(*group)
	if !ok {
		g = &group{c: c, class: idle, name: "idle connection", depth: 1}
		c.handlers[idle] = g
	}
	var err error
	if n < len(g.streams) {
		err = g.shrink(n)
	} else {
		g.proto = c.protocolOf(n, 1)
		err = g.grow(n)
	}
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	return nil
}

package contend

import (
	"fmt"
	"net/netip"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// serveFanout has a task a connection. A subscriber's waits to read, and is
// woken to write by a publisher's.
func serveFanout(l *stepio.Loop) (netip.AddrPort, error) {
	h := &hub{ring: make([]byte, hubSize)}
	return serveTCP(l, func(c *stepio.TCPConn) sm.Frame { return &greeting{hub: h, conn: c} })
}

// hubSize is how many bytes of messages are kept for subscribers that are slow.
const hubSize = 1 << 20

// hub is what the connections of a fan-out share. The messages are in a ring,
// once for all; each subscriber has a place in it. One that is slow keeps its
// place, and the publishers are not read while it leaves no room: nothing is
// lost, and the memory is bounded.
type hub struct {
	ring        []byte
	head        int64 // bytes published, ever
	tail        int64 // the message at which the slowest subscriber was, when it was last looked for
	subscribers []*subscriber
	waiting     []sm.Waker // publishers without room
}

// room is how many bytes can be published: a multiple of FanoutSize.
func (h *hub) room() int {
	if h.head-h.tail == hubSize {
		h.tail = h.head
		for _, s := range h.subscribers {
			h.tail = min(h.tail, s.position-s.position%FanoutSize)
		}
	}
	return hubSize - int(h.head-h.tail)
}

// publish puts whole messages into the ring, for which there is room, and wakes
// the subscribers that do not wait for anything else.
func (h *hub) publish(messages []byte) {
	n := copy(h.ring[h.head%hubSize:], messages)
	copy(h.ring, messages[n:])
	h.head += int64(len(messages))
	for _, s := range h.subscribers {
		if !s.full {
			s.waker.Wake()
		}
	}
}

// since is what was published from a position on, as far as it lies together.
func (h *hub) since(position int64) []byte {
	begin := position % hubSize
	return h.ring[begin:min(begin+h.head-position, hubSize)]
}

// moved wakes the publishers that wait for room.
func (h *hub) moved() {
	for _, w := range h.waiting {
		w.Wake()
	}
	h.waiting = h.waiting[:0]
}

func (h *hub) join(s *subscriber) {
	s.place, s.position = len(h.subscribers), h.head
	h.subscribers = append(h.subscribers, s)
}

func (h *hub) leave(s *subscriber) {
	last := len(h.subscribers) - 1
	h.subscribers[s.place] = h.subscribers[last]
	h.subscribers[s.place].place = s.place
	h.subscribers[last] = nil
	h.subscribers = h.subscribers[:last]
	h.moved()
}

// greeting takes the first byte of a connection, which says what it is, and
// hands it on to a task for that. It stands for
//
//	switch (co_await read_byte(sock)) { case 'S': spawn(subscribe(sock)); case 'P': spawn(publish(sock)); }
type greeting struct {
	hub  *hub
	conn *stepio.TCPConn // nil once it is handed on
}

func (g *greeting) Step(t *sm.Task) sm.Await {
	first := t.Scratch()[:1]
	_, err := g.conn.Read(first)
	if err == stepio.ErrWouldBlock {
		return g.conn.Readable()
	}
	if err != nil {
		return sm.Done
	}
	switch first[0] {
	case 'S':
		t.Spawn(&subscriber{hub: g.hub, conn: g.conn})
		g.conn = nil
	case 'P':
		t.Spawn(&publisher{hub: g.hub, conn: g.conn})
		g.conn = nil
	}
	return sm.Done
}

func (g *greeting) Close() error { return g.conn.Close() }

// subscriber stands for
//
//	join(hub); co_await sock.write("S");
//	for (;;) co_await either(published(hub, position), sock.read(buf));
//
// What it says is not listened to.
type subscriber struct {
	hub      *hub
	conn     *stepio.TCPConn
	waker    sm.Waker // zero until it has joined
	position int64    // what it has got of all that was published
	place    int      // in hub.subscribers
	full     bool     // its socket is
}

func (s *subscriber) Step(t *sm.Task) sm.Await {
	if s.waker == (sm.Waker{}) {
		s.waker = t.Waker()
		s.hub.join(s)
		// A socket that has sent nothing has room for a byte.
		if _, err := s.conn.Write([]byte{'S'}); err != nil {
			return sm.Done
		}
	}
	s.full = false
	for s.position < s.hub.head && !s.full {
		n, err := s.conn.Write(s.hub.since(s.position))
		if err != nil && err != stepio.ErrWouldBlock {
			return sm.Done
		}
		s.position += int64(n)
		s.full = err != nil
	}
	s.hub.moved()
	for {
		switch _, err := s.conn.Read(t.Scratch()); {
		case err == nil:
		case err != stepio.ErrWouldBlock:
			return sm.Done
		case s.full:
			return s.conn.Wait(sm.Read | sm.Write)
		default:
			return s.conn.Readable() // or until woken
		}
	}
}

func (s *subscriber) Close() error {
	if s.waker != (sm.Waker{}) {
		s.hub.leave(s)
	}
	return s.conn.Close()
}

// publisher stands for
//
//	co_await sock.write("P");
//	for (;;) { co_await room(hub); n = co_await sock.read(buf); publish(hub, buf, n); }
type publisher struct {
	hub   *hub
	conn  *stepio.TCPConn
	part  []byte // of a message that is not whole yet
	state publisherState
}

type publisherState uint8

const (
	publisherGreeting publisherState = iota // the client does not know yet
	publisherReading                        // waits for messages
	publisherWaiting                        // waits for room in the hub
)

func (s publisherState) String() string {
	return [...]string{"publisherGreeting", "publisherReading", "publisherWaiting"}[s]
}

func (p *publisher) Step(t *sm.Task) sm.Await {
	for {
		switch p.state {
		case publisherGreeting:
			if _, err := p.conn.Write([]byte{'P'}); err != nil {
				return sm.Done
			}
			p.state = publisherReading
		case publisherReading:
			room := p.hub.room()
			if room == 0 {
				p.hub.waiting = append(p.hub.waiting, t.Waker())
				p.state = publisherWaiting
				return sm.Park
			}
			buf := t.Scratch()
			buf = buf[:min(len(buf), room)]
			n := copy(buf, p.part)
			m, err := p.conn.Read(buf[n:])
			if err == stepio.ErrWouldBlock {
				return p.conn.Readable()
			}
			if err != nil {
				return sm.Done
			}
			n += m
			whole := n - n%FanoutSize
			p.part = append(p.part[:0], buf[whole:n]...)
			if whole > 0 {
				p.hub.publish(buf[:whole])
			}
		case publisherWaiting:
			p.state = publisherReading
		default:
			panic(fmt.Sprintf("publisher.Step: state %d", p.state))
		}
	}
}

func (p *publisher) Close() error { return p.conn.Close() }

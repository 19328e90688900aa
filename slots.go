package stepio

import (
	"net"

	"github.com/stepio-go/stepio/sm"
)

// Descriptors. A slot is all that the loop knows of one: who waits, what the
// poller was asked for, and what has been seen while nobody waited.
//
// How interest is armed:
//   - A descriptor is added to the poller when it is first awaited and stays
//     until it is closed or removed. A wait that is armed already costs nothing.
//   - Level-triggered: a direction that is reported while nobody waits for it is
//     disarmed then, by one modify, and armed again when it is next awaited. A
//     hang-up or an error cannot be masked (epoll_ctl(2)): the descriptor leaves
//     the poller instead, and the next wait adds it again, which reports the
//     condition once more.
//   - Edge-triggered: nothing is ever disarmed. An edge that comes while nobody
//     waits is remembered, and the next wait takes it.
//   - Latched: level-triggered for those who wait, edge-triggered in the kernel,
//     where the poller can do it. Every event of a level-triggered registration
//     makes epoll look at the descriptor once more, in the next epoll_wait, only to
//     find it empty (ep_send_events, fs/eventpoll.c): with many connections that
//     is a walk through memory that no cache holds. A read tells here when it has
//     emptied the socket, a write when it has filled it, and what comes after that
//     makes an edge. A wait of which neither is known, because nobody has tried since
//     the event, say, modifies the registration, which has the kernel look anew: so
//     it is level-triggered whatever was done before it. A connection whose
//     descriptor is given away (SyscallConn) is latched no longer.
//
// What is known between two events:
//   - slotDrained: a read has emptied the descriptor since the last event, so
//     the next read would block; no syscall is needed to know it. This holds
//     only while reading is armed, since only an event can end it, and never on
//     a descriptor that has reported its end, a hang-up, an error or urgent data:
//     data and FIN in one event leave no second edge. Of a listener that is
//     level-triggered it may be a guess: see burst.
type slot struct {
	waiters sm.Waiters
	gen     uint32 // counts the descriptors that have had this number
	asked   sm.Dir // registered for these directions
	armed   sm.Dir // those of them that will be reported; of a latched descriptor, those not reported yet
	edges   sm.Dir // edges that nobody has taken
	flags   slotFlags
}

type slotFlags uint8

const (
	slotRegistered slotFlags = 1 << iota // in the poller
	slotEdge                             // edge-triggered
	slotDrained                          // the last read has emptied it
	slotRestless                         // has reported its end, a hang-up, an error, urgent data
	slotLatched                          // level-triggered, on an edge-triggered registration
	slotTaken                            // a read has taken something since the last event
	slotForeign                          // others may hold the same open file: its close would leave the registration behind
)

// slots is the table of slots by descriptor number. It grows in pieces that
// never move: an idle slot costs 16 bytes, and growing leaves no garbage.
type slots struct{ pieces []*[slotPiece]slot }

// slotPiece slots are 32 KiB: from that size on, Go allocates whole pages, with
// no header and no rounding to a size class, which cost 3 bytes a slot in pieces
// of 256.
const slotPiece = 2048

// get is the slot of fd, nil when fd was never seen.
func (t *slots) get(fd int) *slot {
	if piece := uint(fd) / slotPiece; piece < uint(len(t.pieces)) {
		if p := t.pieces[piece]; p != nil {
			return &p[uint(fd)%slotPiece]
		}
	}
	return nil
}

// at is the slot of fd, made when fd is seen for the first time.
func (t *slots) at(fd int) *slot {
	if s := t.get(fd); s != nil {
		return s
	}
	piece := fd / slotPiece
	for piece >= len(t.pieces) {
		t.pieces = append(t.pieces, nil)
	}
	if t.pieces[piece] == nil {
		t.pieces[piece] = new([slotPiece]slot)
	}
	return &t.pieces[piece][fd%slotPiece]
}

func key(fd int, gen uint32) uint64 { return uint64(gen)<<32 | uint64(uint32(fd)) }

// parker is the loop as its scheduler sees it.
type parker Loop

// Park implements sm.Parker.
func (p *parker) Park(t *sm.Task, a sm.Await) error {
	l, fd, dir := (*Loop)(p), a.FD(), a.Dir()
	if fd < 0 {
		return net.ErrClosed
	}
	s := l.slots.get(fd)
	if s == nil {
		s = l.slots.at(fd)
	}
	if dir == 0 { // waits for no event: nothing to arm
		s.waiters.Add(t)
		return nil
	}
	if edge := a.Edge(); !s.isArmed(dir, edge) {
		if err := l.arm(s, fd, dir, edge); err != nil {
			return err
		}
	}
	s.waiters.Add(t)
	if hit := s.edges & dir; hit != 0 {
		s.edges &^= hit
		s.waiters.Resume(hit)
	}
	return nil
}

// Unpark implements sm.Parker.
func (p *parker) Unpark(t *sm.Task, fd int) { p.slots.get(fd).waiters.Remove(t) }

// Return implements sm.Parker. Edges are remembered only of an edge-triggered
// descriptor: level-triggered readiness is reported again, of a latched one when
// the next wait asks for it.
func (p *parker) Return(fd int, dirs sm.Dir) {
	if s := p.slots.get(fd); s.flags&slotEdge != 0 {
		s.edges |= dirs &^ s.waiters.Resume(dirs)
	}
}

// isArmed reports whether the poller reports the directions of dir already: the
// steady state.
func (s *slot) isArmed(dir sm.Dir, edge bool) bool {
	return dir&^s.armed == 0 && edge == (s.flags&slotEdge != 0)
}

// arm sees to it that the poller reports fd in the directions of dir, which it
// does not yet.
func (l *Loop) arm(s *slot, fd int, dir sm.Dir, edge bool) error {
	sameMode := edge == (s.flags&slotEdge != 0)
	want := s.armed | dir // of a latched one, what was reported and nobody waits for is not asked for again
	if !sameMode {
		if s.waiters.Dirs() != 0 {
			return ErrTriggerMode
		}
		want = dir
	}
	var err error
	if edge := edge || s.flags&slotLatched != 0; s.flags&slotRegistered == 0 {
		err = l.poller.add(fd, key(fd, s.gen), want, edge)
	} else {
		err = l.poller.modify(fd, key(fd, s.gen), s.asked, want, edge)
	}
	if err != nil {
		if s.flags&slotRegistered != 0 && s.waiters.Empty() {
			l.leave(s, fd) // what is left of the registration is not known: the next wait begins anew
		}
		return err
	}
	if !sameMode {
		s.edges = 0
		s.flags ^= slotEdge
	}
	// The poller looks at the descriptor anew, and what it finds is an event:
	// what was known between two events is known no more.
	s.flags = s.flags&^slotDrained | slotRegistered
	s.asked, s.armed = want, want
	return nil
}

// dispatch resumes those who wait for an event.
func (l *Loop) dispatch(ev event) {
	fd := int(int32(uint32(ev.key)))
	s := l.slots.get(fd)
	if s == nil || s.gen != uint32(ev.key>>32) {
		return // of a descriptor that had the number before
	}
	dirs := ev.ready.dirs()
	if ev.ready&(readyEnd|readyHangup|readyError|readyUrgent) != 0 {
		s.flags |= slotRestless
	}
	if dirs&sm.Read != 0 {
		s.flags &^= slotDrained | slotTaken
	}
	if s.latched() {
		s.armed &^= dirs
	}
	claimed := s.waiters.Resume(dirs)
	if dirs == claimed {
		return
	}
	switch {
	case s.flags&slotEdge != 0:
		s.edges |= dirs &^ claimed
	case claimed == 0 && ev.ready&(readyHangup|readyError) != 0:
		l.leave(s, fd)
	case s.asked&dirs&^claimed != 0:
		want := s.asked &^ (dirs &^ claimed)
		if err := l.poller.modify(fd, key(fd, s.gen), s.asked, want, s.latched()); err != nil {
			l.leave(s, fd)
			s.waiters.Nudge() // those who wait in the other direction must ask again
			return
		}
		s.asked, s.armed = want, want
		s.flags &^= slotDrained
	}
}

// unlatch makes a latched descriptor one that is level-triggered in the kernel,
// too: whoever has it may do what a slot does not know of.
func (l *Loop) unlatch(s *slot, fd int) error {
	if s.latched() && s.flags&slotRegistered != 0 && l.state.Load() != loopClosed { // else the poller is gone, and its number another's
		if err := l.poller.modify(fd, key(fd, s.gen), s.asked, s.asked, false); err != nil {
			return err
		}
		s.armed = s.asked
		s.flags &^= slotDrained
	}
	s.flags &^= slotLatched
	return nil
}

// leave takes a descriptor out of the poller that nobody waits for; the next
// wait adds it again. A failure means that it is not in the poller, which is
// what was wanted: its owner closed it first.
func (l *Loop) leave(s *slot, fd int) {
	_ = l.poller.remove(fd, s.asked)
	s.asked, s.armed = 0, 0
	s.flags &^= slotRegistered | slotDrained
}

// claim makes the slot of a descriptor that was just opened, adopted or
// accepted ready for it. What a previous one left behind, closed without the
// loop being told, ends here.
func (l *Loop) claim(fd int, foreign bool) {
	s := l.slots.at(fd)
	s.flags &^= slotForeign // an old registration went with the old descriptor
	if s.flags&slotRegistered != 0 || !s.waiters.Empty() {
		_ = l.release(fd, net.ErrClosed, true)
	}
	s.flags, s.edges = 0, 0
	if foreign {
		s.flags |= slotForeign
	}
}

// release ends what the loop knows of fd and resumes those who wait for it with
// cause. The descriptor leaves the poller by an explicit call, unless it is
// about to be closed and nobody else holds it: then its close does it.
func (l *Loop) release(fd int, cause error, closing bool) (err error) {
	s := l.slots.get(fd)
	if s == nil {
		return nil
	}
	stays := !closing || s.flags&slotForeign != 0
	if s.flags&slotRegistered != 0 && stays && l.state.Load() != loopClosed { // else the poller is gone, or about to go
		err = l.poller.remove(fd, s.asked)
	}
	s.gen++
	s.asked, s.armed, s.edges = 0, 0, 0
	if closing {
		s.flags = 0
	} else {
		s.flags &= slotForeign // it stays open, and others still hold it
	}
	s.waiters.Fail(cause)
	return err
}

// readEmptied notes that a read has emptied the descriptor of s.
func (s *slot) readEmptied() {
	s.edges &^= sm.Read
	if s.asked&sm.Read != 0 && s.flags&slotRestless == 0 {
		s.flags |= slotDrained
		s.armed |= sm.Read
	}
}

// readBlocked notes that a read found nothing. When an event has just said that
// there is something, and nobody has taken it, a latched descriptor does not
// believe that: the next wait has the kernel look again.
func (s *slot) readBlocked() {
	if s.latched() && s.armed&sm.Read == 0 && s.flags&slotTaken == 0 {
		return
	}
	s.readEmptied()
}

// readTook notes that a read has taken n bytes of a stream into a buffer with room for
// so many.
func (s *slot) readTook(n, room int) {
	if n < room {
		s.readShort()
	} else {
		s.readFull()
	}
}

// readFull notes that a read has filled its buffer: there may be more.
func (s *slot) readFull() {
	s.flags |= slotTaken
	s.readStopped()
}

// readShort notes that a read has returned less than it had room for: it has
// emptied the descriptor, unless something follows that makes no event of its
// own. Data and FIN in one event leave no second edge.
func (s *slot) readShort() {
	if s.flags&slotRestless != 0 {
		s.readStopped()
		return
	}
	s.readEmptied()
}

// readStopped notes that a read stopped while there may be more: an edge has
// been used up that the next edge-triggered wait must find.
func (s *slot) readStopped() {
	if s.flags&slotEdge != 0 {
		s.edges |= sm.Read
	}
}

// writeStopped is readStopped for writing.
func (s *slot) writeStopped() {
	if s.flags&slotEdge != 0 {
		s.edges |= sm.Write
	}
}

// writeShort notes that the socket took n bytes and no more: an edge that was
// remembered has been used up, and when room comes that makes another, since the
// socket knows of somebody who wants it (SOCK_NOSPACE, net/ipv4/tcp.c). That it
// took nothing may contradict an event, as in readBlocked.
func (s *slot) writeShort(n int) {
	s.edges &^= sm.Write
	if n > 0 {
		s.armed |= s.asked & sm.Write
	}
}

// latched reports whether s is level-triggered on an edge-triggered
// registration.
func (s *slot) latched() bool { return s.flags&(slotEdge|slotLatched) == slotLatched }

// drained reports whether a read would block, as far as is known.
func (s *slot) drained() bool { return s.flags&slotDrained != 0 }

//go:build linux || darwin

package simkernel

import (
	"syscall"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// The poller, as epoll(7) has it: a registration whose file may have become
// ready is in a list; a wait asks each file in the list, reports those that are
// ready, and keeps the level-triggered ones in the list.

// What a file is ready for. A poller's report has these bits.
const (
	Readable uint8 = 1 << iota
	Writable
	Ended  // no more input
	HungUp // both directions are over
	Failed // an error is pending
)

const everything = Readable | Writable | Ended | HungUp | Failed

type registration struct {
	file   *file
	key    uint64
	mask   uint8
	edge   bool
	listed bool
}

type staleEvent struct {
	key   uint64
	ready uint8
}

func mask(dirs sm.Dir) uint8 {
	m := HungUp | Failed // which cannot be masked
	if dirs&sm.Read != 0 {
		m |= Readable | Ended
	}
	if dirs&sm.Write != 0 {
		m |= Writable
	}
	return m
}

// look is what f is ready for.
func (k *Kernel) look(f *file) (ready uint8) {
	if f.err != 0 {
		ready |= Failed
	}
	if f.kind == syscall.SOCK_DGRAM {
		if len(f.box) > 0 {
			ready |= Readable
		}
		if f.underway <= k.config.SendBuffer/2 {
			ready |= Writable
		}
		return ready
	}
	switch f.state {
	case listening:
		if len(f.queue) > 0 {
			ready |= Readable
		}
		return ready
	case connecting:
		return ready
	case fresh, broken:
		ready |= HungUp
	}
	if f.ended {
		ready |= Readable | Ended
		if f.ending {
			ready |= HungUp
		}
	}
	if len(f.in) > 0 {
		ready |= Readable
	}
	if f.ending || k.writable(f) {
		ready |= Writable
	}
	return ready
}

// poll is look for the poller: a writer that finds no room is to be told.
func (k *Kernel) poll(f *file) uint8 {
	ready := k.look(f)
	if ready&Writable == 0 {
		f.nospace = true
	}
	return ready
}

// Ready is what fd is ready for, as a wait would report it. Writing counts only
// where there is the room that a poll asks for.
func (k *Kernel) Ready(fd int) uint8 {
	if k.ID(fd) == 0 {
		return 0
	}
	return k.look(k.files[fd])
}

// Reported is the number of the wait that has reported fd last for reading, and
// for writing; 0: none.
func (k *Kernel) Reported(fd int) (read, write int) {
	if k.ID(fd) == 0 {
		return 0, 0
	}
	return k.files[fd].reported[0], k.files[fd].reported[1]
}

// Waits is how many waits there were, the current one included.
func (k *Kernel) Waits() int { return k.waits }

// wake says that f may be ready for something that it was not.
func (k *Kernel) wake(f *file, bits uint8) {
	r := f.reg
	if r == nil || bits&r.mask == 0 {
		return
	}
	if r.listed {
		k.Count(MergedEvents)
		return
	}
	r.listed = true
	k.ready = append(k.ready, r)
}

// again is an event that has to come after a call that did less than it could:
// for the caller, what is left became ready after it.
func (k *Kernel) again(f *file, bits uint8) { k.send(func() { k.wake(f, bits) }) }

// PollAdd is EPOLL_CTL_ADD.
func (k *Kernel) PollAdd(fd int, key uint64, dirs sm.Dir, edge bool) error {
	f, errno := k.file("poll add", fd)
	switch {
	case errno != 0:
	case f.reg != nil:
		k.violate("descriptor %d is added to the poller twice", fd)
		errno = syscall.EEXIST
	case k.draw(RefusedInterest):
		k.Disturbed = true
		errno = syscall.ENOMEM
	default:
		f.reg = &registration{file: f}
		k.setInterest(f, key, dirs, edge)
	}
	k.trace("poll add", fd, int(dirs), errno, flag(edge))
	return orNil(errno)
}

// PollModify is EPOLL_CTL_MOD.
func (k *Kernel) PollModify(fd int, key uint64, dirs sm.Dir, edge bool) error {
	f, errno := k.file("poll modify", fd)
	switch {
	case errno != 0:
	case f.reg == nil:
		k.violate("descriptor %d is modified and not in the poller", fd)
		errno = syscall.ENOENT
	case k.draw(RefusedInterest):
		k.Disturbed = true
		errno = syscall.ENOMEM
	default:
		k.setInterest(f, key, dirs, edge)
	}
	k.trace("poll modify", fd, int(dirs), errno, flag(edge))
	return orNil(errno)
}

// setInterest changes a registration, and looks at the file anew.
func (k *Kernel) setInterest(f *file, key uint64, dirs sm.Dir, edge bool) {
	r := f.reg
	r.key, r.mask, r.edge = key, mask(dirs), edge
	if ready := k.poll(f) & r.mask; ready != 0 {
		k.wake(f, ready)
	}
}

// PollRemove is EPOLL_CTL_DEL.
func (k *Kernel) PollRemove(fd int) error {
	f, errno := k.file("poll remove", fd)
	switch {
	case errno != 0:
	case f.reg == nil:
		k.violate("descriptor %d is removed and not in the poller", fd)
		errno = syscall.ENOENT
	default:
		k.drop(f)
	}
	k.trace("poll remove", fd, 0, errno, nil)
	return orNil(errno)
}

// unregister is what close does to a registration.
func (k *Kernel) unregister(f *file) {
	if f.shared && !k.Ending {
		k.violate("a shared descriptor is closed while it is in the poller")
	}
	if k.draw(StaleEvent) {
		k.stale = append(k.stale, staleEvent{f.reg.key, f.reg.mask &^ (HungUp | Failed)})
	}
	k.drop(f)
}

func (k *Kernel) drop(f *file) {
	for i, r := range k.ready {
		if r == f.reg {
			k.ready = append(k.ready[:i], k.ready[i+1:]...)
			break
		}
	}
	f.reg = nil
}

func flag(on bool) []byte {
	if on {
		return []byte{1}
	}
	return []byte{0}
}

func orNil(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// send has something happen on the network.
func (k *Kernel) send(do func()) { k.flight = append(k.flight, do) }

// after has something happen after a time.
func (k *Kernel) after(d time.Duration, do func()) {
	k.timers = append(k.timers, alarm{k.now + d, do})
}

// step does one thing that is in flight, chosen by chance.
func (k *Kernel) step() {
	i, last := k.rnd.IntN(len(k.flight)), len(k.flight)-1
	do := k.flight[i]
	k.flight[i] = k.flight[last]
	k.flight[last] = nil
	k.flight = k.flight[:last]
	do()
}

// pass lets time pass until then, and does what was to happen.
func (k *Kernel) pass(then time.Duration) {
	for {
		first := -1
		for i, a := range k.timers {
			if a.at <= then && (first < 0 || a.at < k.timers[first].at) {
				first = i
			}
		}
		if first < 0 {
			k.now = max(k.now, then)
			return
		}
		a := k.timers[first]
		k.timers = append(k.timers[:first], k.timers[first+1:]...)
		k.now = max(k.now, a.at)
		a.do()
	}
}

// PollWake ends the current wait, or the next one.
func (k *Kernel) PollWake() error {
	k.trace("poll wake", -1, 0, 0, nil)
	k.woken = true
	return nil
}

// PollClose closes the poller.
func (k *Kernel) PollClose() error { return nil }

// PollWait is epoll_wait(2).
func (k *Kernel) PollWait(room int, timeout time.Duration, report func(key uint64, ready uint8)) error {
	k.concurrent()
	k.waits++
	k.closed = k.closed[:0]
	if k.draw(Interrupted) {
		k.trace("poll wait", -1, 0, syscall.EINTR, nil)
		return nil
	}
	for n := k.rnd.IntN(4); n > 0 && len(k.flight) > 0; n-- {
		k.step()
	}
	if k.rnd.IntN(4) == 0 {
		k.pass(k.now + time.Duration(k.rnd.IntN(int(2*time.Millisecond))))
	}
	n := k.wait(room, timeout, report)
	k.woken = false
	k.trace("poll wait", -1, n, 0, nil)
	return nil
}

// wait reports what is ready, and blocks until something is.
func (k *Kernel) wait(room int, timeout time.Duration, report func(key uint64, ready uint8)) (n int) {
	until := time.Duration(-1)
	if timeout > 0 {
		until = k.now + (timeout+time.Millisecond-1)/time.Millisecond*time.Millisecond
	}
	for {
		n = k.collect(room, report)
		over := timeout == 0 || until >= 0 && k.now >= until
		if n > 0 && until >= 0 && over {
			k.Count(TimerWithEvents)
		}
		if n > 0 || over || k.woken {
			return n
		}
		switch {
		case len(k.ready) > 0: // delayed
		case len(k.flight) > 0:
			if until >= 0 && until-k.now < time.Second && k.rnd.IntN(4) == 0 {
				k.pass(until)
			}
			k.step()
		default:
			next := until
			for _, a := range k.timers {
				if next < 0 || a.at < next {
					next = a.at
				}
			}
			if k.config.Blocking != nil {
				k.config.Blocking(next < 0)
			}
			if next < 0 || k.woken {
				return 0
			}
			k.pass(next)
		}
	}
}

// collect reports what is ready, at most room events. What there was no room for
// comes first the next time.
func (k *Kernel) collect(room int, report func(key uint64, ready uint8)) (n int) {
	items := k.ready
	k.ready = nil
	if len(items) > 1 && k.draw(ReorderedEvents) {
		k.rnd.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
	}
	var left []*registration
	for i, r := range items {
		if n == room {
			left = items[i:]
			break
		}
		if k.draw(DelayedEvent) {
			k.ready = append(k.ready, r)
			continue
		}
		ready := k.poll(r.file) & r.mask
		if r.listed = ready != 0 && !r.edge; r.listed {
			k.ready = append(k.ready, r)
		}
		if ready != 0 {
			k.tell(r, ready, report)
			n++
		}
	}
	if len(left) > 0 {
		k.ready = append(left, k.ready...)
	}
	late := k.stale[:0]
	for _, e := range k.stale {
		if n == room || k.rnd.IntN(4) != 0 {
			late = append(late, e) // until the number is another's
			continue
		}
		k.trace("stale event", -1, int(e.ready), 0, nil)
		report(e.key, e.ready)
		n++
	}
	k.stale = late
	if n < room && len(k.files) > firstFD && k.config.Rates[SpuriousEvent] > 0 {
		f := k.files[firstFD+k.rnd.IntN(len(k.files)-firstFD)]
		if f != nil && f.reg != nil && f.reg.mask&(Readable|Writable) != 0 && k.draw(SpuriousEvent) {
			k.tell(f.reg, f.reg.mask&(Readable|Writable), report)
			n++
		}
	}
	return n
}

// tell reports one event.
func (k *Kernel) tell(r *registration, ready uint8, report func(key uint64, ready uint8)) {
	if ready&(Readable|Ended|HungUp|Failed) != 0 {
		r.file.reported[0] = k.waits
	}
	if ready&(Writable|HungUp|Failed) != 0 {
		r.file.reported[1] = k.waits
	}
	k.trace("event", r.file.fd, int(ready), 0, nil)
	report(r.key, ready)
}

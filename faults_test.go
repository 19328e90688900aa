//go:build linux || darwin

package stepio

import (
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// faults is a kernel that hands every call to the real one, counts it, and
// fails when it is told to.
type faults struct {
	real   sys
	poller poller
	events []event
	known  map[int]registered

	counts [callKinds]atomic.Int64
	script [callKinds][]syscall.Errno // what the next calls answer; 0 lets one through
	// interrupted makes every second call answer EINTR, where the kernel may.
	interrupted bool
	before      bool // a connect that is interrupted has not begun
	// maxRead and maxWrite are the most bytes that a call moves; 0: any number.
	maxRead, maxWrite int
	// onWait may reorder, add, change and withhold events; nil: it does not.
	onWait func(events []event) []event
}

// registered is a registration, as it was made last.
type registered struct {
	key  uint64
	dirs sm.Dir
	edge bool
}

type callKind int

const (
	callSocket callKind = iota
	callBind
	callListen
	callConnect
	callAccept
	callRead
	callWrite
	callReceiveFrom
	callSendTo
	callShutdown
	callClose
	callOption
	callSetOption
	callAddr
	callPollAdd
	callPollModify
	callPollRemove
	callPollWait
	callPollWake
	callKinds
)

func newFaults(t testing.TB) *faults {
	p, err := testPoller(eventBatch)
	require.NoError(t, err)
	return &faults{poller: p, events: make([]event, eventBatch), known: make(map[int]registered)}
}

// fail makes the next calls answer errnos, in their order; 0 lets one through.
func (f *faults) fail(c callKind, errnos ...syscall.Errno) {
	f.script[c] = append(f.script[c], errnos...)
}

// count is how many calls there were.
func (f *faults) count(kinds ...callKind) (n int) {
	for _, c := range kinds {
		n += int(f.counts[c].Load())
	}
	return n
}

// registrations is how many calls there were that change a registration.
func (f *faults) registrations() int {
	return f.count(callPollAdd, callPollModify, callPollRemove)
}

// during counts the calls that fn causes.
func (f *faults) during(fn func(), kinds ...callKind) int {
	before := f.count(kinds...)
	fn()
	return f.count(kinds...) - before
}

// answer counts a call and says what it fails with.
func (f *faults) answer(c callKind) syscall.Errno {
	f.counts[c].Add(1)
	if len(f.script[c]) == 0 {
		return 0
	}
	errno := f.script[c][0]
	f.script[c] = f.script[c][1:]
	return errno
}

// answerSlow is answer for a call that a signal can interrupt.
func (f *faults) answerSlow(c callKind) syscall.Errno {
	errno := f.answer(c)
	if errno == 0 && f.interrupted && f.counts[c].Load()%2 == 1 {
		return syscall.EINTR
	}
	return errno
}

func (f *faults) Socket(family, kind int) (int, syscall.Errno) {
	if errno := f.answer(callSocket); errno != 0 {
		return -1, errno
	}
	return f.real.socket(family, kind)
}

func (f *faults) Bind(fd int, addr netip.AddrPort) syscall.Errno {
	if errno := f.answer(callBind); errno != 0 {
		return errno
	}
	return f.real.bind(fd, addr)
}

func (f *faults) Listen(fd, backlog int) syscall.Errno {
	if errno := f.answer(callListen); errno != 0 {
		return errno
	}
	return f.real.listen(fd, backlog)
}

// Connect goes on by itself when it is interrupted, as connect(2) does, unless
// the signal comes before it begins.
func (f *faults) Connect(fd int, addr netip.AddrPort) syscall.Errno {
	errno := f.answerSlow(callConnect)
	if errno != 0 && (errno != syscall.EINTR || f.before) {
		return errno
	}
	switch e := rawConnect(fd, addr); e {
	case 0, syscall.EINPROGRESS, syscall.EALREADY, syscall.EISCONN:
		if errno != 0 {
			return errno
		}
		return e
	default:
		return e
	}
}

func (f *faults) Accept(fd int) (int, syscall.Errno) {
	if errno := f.answerSlow(callAccept); errno != 0 {
		return -1, errno
	}
	return f.real.accept(fd)
}

func (f *faults) Read(fd, room int) ([]byte, syscall.Errno) {
	if errno := f.answerSlow(callRead); errno != 0 {
		return nil, errno
	}
	if f.maxRead > 0 {
		room = min(room, f.maxRead)
	}
	data := make([]byte, room)
	n, errno := f.real.read(fd, data)
	if f.maxRead > 0 && errno == 0 {
		f.again(fd)
	}
	return data[:n], errno
}

// again has an event follow a call that did less than it could: for the caller,
// what is left comes after it. Without one no kernel would do so.
func (f *faults) again(fd int) {
	if r, ok := f.known[fd]; ok && r.edge {
		_ = f.poller.modify(fd, r.key, r.dirs, r.dirs, r.edge) // it is registered
	}
}

func (f *faults) Write(fd int, data []byte) (int, syscall.Errno) {
	if errno := f.answerSlow(callWrite); errno != 0 {
		return 0, errno
	}
	if f.maxWrite > 0 {
		data = data[:min(len(data), f.maxWrite)]
	}
	n, errno := f.real.write(fd, data)
	if f.maxWrite > 0 && errno == 0 {
		f.again(fd)
	}
	return n, errno
}

func (f *faults) Shutdown(fd, how int) syscall.Errno {
	if errno := f.answer(callShutdown); errno != 0 {
		return errno
	}
	return f.real.shutdown(fd, how)
}

// Close closes fd whatever it answers, as close(2) does.
func (f *faults) Close(fd int) syscall.Errno {
	errno := f.answerSlow(callClose)
	delete(f.known, fd)
	if e := f.real.close(fd); errno == 0 {
		return e
	}
	return errno
}

func (f *faults) SocketOption(fd, level, name int) (int, syscall.Errno) {
	if errno := f.answer(callOption); errno != 0 {
		return 0, errno
	}
	return f.real.option(fd, level, name)
}

func (f *faults) SetSocketOption(fd, level, name, value int) syscall.Errno {
	if errno := f.answer(callSetOption); errno != 0 {
		return errno
	}
	return f.real.setOption(fd, level, name, value)
}

func (f *faults) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if errno := f.answer(callAddr); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return f.real.localAddr(fd)
}

func (f *faults) RemoteAddr(fd int) (netip.AddrPort, syscall.Errno) {
	if errno := f.answer(callAddr); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return f.real.remoteAddr(fd)
}

func (f *faults) PollAdd(fd int, key uint64, dirs sm.Dir, edge bool) error {
	if errno := f.answer(callPollAdd); errno != 0 {
		return errno
	}
	err := f.poller.add(fd, key, dirs, edge)
	if err == nil {
		f.known[fd] = registered{key, dirs, edge}
	}
	return err
}

func (f *faults) PollModify(fd int, key uint64, dirs sm.Dir, edge bool) error {
	if errno := f.answer(callPollModify); errno != 0 {
		return errno
	}
	err := f.poller.modify(fd, key, f.known[fd].dirs, dirs, edge)
	if err == nil {
		f.known[fd] = registered{key, dirs, edge}
	}
	return err
}

func (f *faults) PollRemove(fd int) error {
	if errno := f.answer(callPollRemove); errno != 0 {
		return errno
	}
	dirs := f.known[fd].dirs
	delete(f.known, fd)
	return f.poller.remove(fd, dirs)
}

// PollWait reports no event and no error when it is interrupted.
func (f *faults) PollWait(room int, timeout time.Duration, report func(key uint64, ready uint8)) error {
	errno := f.answerSlow(callPollWait)
	if errno == syscall.EINTR {
		return nil
	}
	if errno != 0 {
		return errno
	}
	n, err := f.poller.wait(f.events[:min(room, len(f.events))], timeout)
	events := f.events[:n]
	if f.onWait != nil {
		events = f.onWait(events)
	}
	for _, ev := range events {
		report(ev.key, uint8(ev.ready))
	}
	return err
}

func (f *faults) PollWake() error {
	if errno := f.answer(callPollWake); errno != 0 {
		return errno
	}
	return f.poller.wake()
}

func (f *faults) PollClose() error { return f.poller.close() }

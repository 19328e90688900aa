//go:build linux || darwin

// Package simkernel is a kernel that exists in memory only: TCP and UDP sockets
// of one machine, a descriptor table, a poller with the semantics of epoll(7), and
// a clock. It fails in every way that a real one may, as one seed decides, so that
// the code above it can be run again call by call.
//
// It is driven by one goroutine. Time passes, and the network moves, only in
// PollWait. What the code above must never do (use a descriptor that is closed,
// close one twice, register one twice) is kept in Violations.
package simkernel

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"time"
)

// Config is what a kernel is built with.
type Config struct {
	Rand          *rand.Rand
	Rates         [Faults]uint32 // how often each fault is drawn, of 1024
	Files         int            // how many descriptors there are; 0: as many as are asked for
	SendBuffer    int            // of a socket, in bytes
	ReceiveBuffer int            // likewise
	Trace         io.Writer      // gets a line a call; nil: none
	// Concurrent is called where another goroutine could run. It may call
	// PollWake.
	Concurrent func()
	// Blocking is called when a wait is about to block: nothing is ready,
	// nothing on its way. Forever: nor is there a timeout or a timer.
	Blocking func(forever bool)
}

// A Kernel is a simulated kernel.
type Kernel struct {
	Hits       [Faults]int // how often each fault has happened
	Disturbed  bool        // a connection was broken, or refused, by the simulation
	Violations []string    // what the code above must not have done
	Ending     bool        // the poller is about to be closed: it need not be told what leaves it
	Calls      int         // made
	Moves      int         // those that have moved data, accepted or failed: not the interrupted ones, nor those that would block

	config    Config
	rnd       *rand.Rand
	sum       uint64
	now       time.Duration
	files     []*file // by descriptor
	opened    int     // files so far
	listeners []*file
	boxes     []*file  // datagram sockets that are bound
	flight    []func() // what the network does next, in any order
	timers    []alarm
	port      uint16
	closed    []int // numbers that were closed since the last wait
	elsewhere bool  // in Concurrent

	ready []*registration
	stale []staleEvent
	waits int
	woken bool
}

// alarm is something that happens at a time.
type alarm struct {
	at time.Duration
	do func()
}

// file is an open file, or what is left of one on the network.
type file struct {
	id       int // of all files of this kernel
	fd       int // -1: in an accept queue, or closed
	kind     int // SOCK_STREAM or SOCK_DGRAM
	near     netip.AddrPort
	far      netip.AddrPort
	err      syscall.Errno // SO_ERROR
	reg      *registration
	reported [2]int // the wait that reported reading, and writing, last
	shared   bool   // others hold it too
	gone     bool   // closed
	nospace  bool   // a writer has to be told when there is room

	stream
	datagrams
}

const firstFD = 3 // a process has three already

// New makes a kernel.
func New(c Config) *Kernel {
	return &Kernel{
		config: c, rnd: c.Rand, sum: offset64, port: 40000,
		files: make([]*file, firstFD), now: time.Second,
	}
}

// Clock is the time, which passes only while the loop waits.
func (k *Kernel) Clock() time.Duration {
	k.concurrent()
	return k.now
}

// The sum is FNV-1a, the same in every process: hash/fnv would cost an
// allocation a call.
const (
	offset64 = 14695981039346656037
	prime64  = 1099511628211
)

// Hash is the sum of every call so far and its result.
func (k *Kernel) Hash() uint64 { return k.sum }

// Open is how many descriptors are open, and how many of them are registered.
func (k *Kernel) Open() (files, registrations int) {
	for _, f := range k.files {
		if f != nil {
			files++
			if f.reg != nil {
				registrations++
			}
		}
	}
	return files, registrations
}

// ID tells the open files apart that one number has had: 0 for a closed one.
func (k *Kernel) ID(fd int) int {
	if fd < 0 || fd >= len(k.files) || k.files[fd] == nil {
		return 0
	}
	return k.files[fd].id
}

// Finished reports whether the end of the peer's output has come to fd: if not,
// an end of input is that of a connection that was reset.
func (k *Kernel) Finished(fd int) bool { return k.ID(fd) != 0 && k.files[fd].finished }

// Share notes that others hold fd, too: its registration must be removed before
// it is closed (epoll(7), question 6).
func (k *Kernel) Share(fd int) { k.files[fd].shared = true }

// trace adds a call, its result and bytes to the sum.
func (k *Kernel) trace(call string, fd, result int, errno syscall.Errno, data []byte) {
	k.Calls++
	sum := k.sum
	for i := range len(call) {
		sum = (sum ^ uint64(call[i])) * prime64
	}
	for _, word := range [...]uint64{uint64(fd), uint64(result), uint64(errno), uint64(k.now)} {
		for ; word != 0; word >>= 8 {
			sum = (sum ^ word&0xff) * prime64
		}
		sum *= prime64
	}
	for _, b := range data {
		sum = (sum ^ uint64(b)) * prime64
	}
	k.sum = sum
	if k.config.Trace != nil {
		fmt.Fprintf(k.config.Trace, "%12v %s(%d) = %d %s\n", k.now, call, fd, result, name(errno))
	}
}

// moved counts a call that is to move something.
func (k *Kernel) moved(errno syscall.Errno) {
	if errno != syscall.EAGAIN && errno != syscall.EINTR {
		k.Moves++
	}
}

func name(errno syscall.Errno) string {
	if errno == 0 {
		return ""
	}
	return errno.Error()
}

// violate notes what the code above must not have done.
func (k *Kernel) violate(format string, args ...any) {
	k.Violations = append(k.Violations, fmt.Sprintf(format, args...))
	if k.config.Trace != nil {
		fmt.Fprintf(k.config.Trace, "%12v VIOLATION: %s\n", k.now, k.Violations[len(k.Violations)-1])
	}
}

// file is the open file of fd.
func (k *Kernel) file(call string, fd int) (*file, syscall.Errno) {
	k.concurrent()
	if k.ID(fd) == 0 {
		k.violate("%s of descriptor %d, which is not open", call, fd)
		return nil, syscall.EBADF
	}
	return k.files[fd], 0
}

// install gives f the lowest free number.
func (k *Kernel) install(f *file) syscall.Errno {
	if k.draw(OutOfFiles) {
		return syscall.EMFILE
	}
	fd := firstFD
	for fd < len(k.files) && k.files[fd] != nil {
		fd++
	}
	if k.config.Files > 0 && fd >= firstFD+k.config.Files {
		k.Count(OutOfFiles)
		return syscall.EMFILE
	}
	if fd == len(k.files) {
		k.files = append(k.files, nil)
	}
	for _, number := range k.closed {
		if number == fd {
			k.Count(ReusedNumber)
			break
		}
	}
	k.files[fd] = f
	f.fd = fd
	return 0
}

func (k *Kernel) newFile(kind int) *file {
	k.opened++
	return &file{id: k.opened, fd: -1, kind: kind}
}

// Socket is socket(2), non-blocking.
func (k *Kernel) Socket(_, kind int) (fd int, errno syscall.Errno) {
	k.concurrent()
	fd = -1
	if k.draw(OutOfBuffers) {
		errno = syscall.ENOBUFS
	} else {
		f := k.newFile(kind)
		if errno = k.install(f); errno == 0 {
			fd = f.fd
		}
	}
	k.trace("socket", fd, kind, errno, nil)
	return fd, errno
}

// Bind is bind(2). Port 0 is a free port.
func (k *Kernel) Bind(fd int, addr netip.AddrPort) syscall.Errno {
	f, errno := k.file("bind", fd)
	if errno == 0 {
		if addr.Port() == 0 {
			addr = netip.AddrPortFrom(addr.Addr(), k.freePort())
		}
		f.near = addr
		if f.kind == syscall.SOCK_DGRAM {
			k.boxes = append(k.boxes, f)
		}
	}
	k.trace("bind", fd, int(addr.Port()), errno, nil)
	return errno
}

func (k *Kernel) freePort() uint16 {
	k.port++
	return k.port
}

// named gives f an address where it has none.
func (k *Kernel) named(f *file) {
	if !f.near.IsValid() {
		f.near = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), k.freePort())
		if f.kind == syscall.SOCK_DGRAM {
			k.boxes = append(k.boxes, f)
		}
	}
}

// Connect is connect(2).
func (k *Kernel) Connect(fd int, addr netip.AddrPort) syscall.Errno {
	f, errno := k.file("connect", fd)
	if errno == 0 {
		k.named(f)
		f.far = addr
		if f.kind == syscall.SOCK_STREAM {
			errno = k.connect(f)
		} else if k.draw(Interrupted) {
			errno = syscall.EINTR
		}
	}
	k.trace("connect", fd, int(addr.Port()), errno, nil)
	return errno
}

// Close is close(2): the descriptor is closed whatever it answers.
func (k *Kernel) Close(fd int) syscall.Errno {
	f, errno := k.file("close", fd)
	if errno == 0 {
		k.files[fd] = nil
		k.closed = append(k.closed, fd)
		f.fd, f.gone = -1, true
		if f.reg != nil {
			k.unregister(f)
		}
		if f.kind == syscall.SOCK_STREAM {
			k.closeStream(f)
		} else {
			k.boxes = without(k.boxes, f)
		}
		if k.draw(Interrupted) {
			errno = syscall.EINTR
		}
	}
	k.trace("close", fd, 0, errno, nil)
	return errno
}

// without is files without f.
func without(files []*file, f *file) []*file {
	for i := range files {
		if files[i] == f {
			return append(files[:i], files[i+1:]...)
		}
	}
	return files
}

// SocketOption is getsockopt(2). SO_ERROR is cleared by it.
func (k *Kernel) SocketOption(fd, level, name int) (value int, errno syscall.Errno) {
	f, errno := k.file("getsockopt", fd)
	if errno == 0 && level == syscall.SOL_SOCKET && name == syscall.SO_ERROR {
		value, f.err = int(f.err), 0
	}
	k.trace("getsockopt", fd, value, errno, nil)
	return value, errno
}

// SetSocketOption is setsockopt(2). SO_LINGER has a meaning here, and the others
// none.
func (k *Kernel) SetSocketOption(fd, level, name, value int) syscall.Errno {
	f, errno := k.file("setsockopt", fd)
	if errno == 0 && level == syscall.SOL_SOCKET && name == syscall.SO_LINGER {
		f.abrupt = value == 0
	}
	k.trace("setsockopt", fd, value, errno, nil)
	return errno
}

// LocalAddr is getsockname(2).
func (k *Kernel) LocalAddr(fd int) (netip.AddrPort, syscall.Errno) {
	f, errno := k.file("getsockname", fd)
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	k.trace("getsockname", fd, int(f.near.Port()), 0, nil)
	return f.near, 0
}

// RemoteAddr is getpeername(2).
func (k *Kernel) RemoteAddr(fd int) (netip.AddrPort, syscall.Errno) {
	f, errno := k.file("getpeername", fd)
	if errno == 0 && (!f.far.IsValid() || f.kind == syscall.SOCK_STREAM && !f.connected()) {
		errno = syscall.ENOTCONN
	}
	k.trace("getpeername", fd, 0, errno, nil)
	if errno != 0 {
		return netip.AddrPort{}, errno
	}
	return f.far, 0
}

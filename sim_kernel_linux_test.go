package stepio

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/internal/testseed"
	"github.com/stepio-go/stepio/sm"
)

// The simulated kernel beside Linux: each case is run on both, through the seam
// that the library uses, and says what must come out. So what a simulation is told
// of the network is what Linux tells.

// kernelCases are all of them, by name.
func kernelCases() map[string]func(k *kernelSide) {
	cases := map[string]func(k *kernelSide){}
	for _, table := range []map[string]func(k *kernelSide){kernelPollerCases, kernelStreamCases, kernelEndCases, kernelDatagramCases} {
		for name, run := range table {
			cases[name] = run
		}
	}
	return cases
}

func TestSimKernelIsLikeLinux(t *testing.T) {
	for name, run := range kernelCases() {
		t.Run(name, func(t *testing.T) {
			t.Run("linux", func(t *testing.T) { run(newKernelSide(t, nil)) })
			t.Run("simulated", func(t *testing.T) {
				const runs = simSeedsHere / 100 // its network moves by chance
				random := testseed.Rand(t)
				for range runs {
					k := simkernel.New(simkernel.Config{Rand: random, SendBuffer: 1 << 16, ReceiveBuffer: 1 << 16})
					side := newKernelSide(t, k)
					run(side)
					side.end()
					files, registrations := k.Open()
					assert.Zero(t, files+registrations)
					assert.Empty(t, k.Violations)
				}
			})
		})
	}
}

// kernelSide is one of the two kernels, with what a case asks of it. What it opens
// is closed in the end.
type kernelSide struct {
	t      *testing.T
	sys    sys
	poller poller
	events []event
	fds    []int
	now    func() time.Duration
}

var kernelEpoch = time.Now()

func newKernelSide(t *testing.T, sim *simkernel.Kernel) *kernelSide {
	k := &kernelSide{t: t, events: make([]event, 16), now: func() time.Duration { return time.Since(kernelEpoch) }}
	if sim != nil {
		k.sys.sim, k.now = sim, sim.Clock
	}
	p, err := k.sys.newPoller(len(k.events))
	require.NoError(t, err)
	k.poller = p
	t.Cleanup(k.end)
	return k
}

// end closes what is open. Twice is once.
func (k *kernelSide) end() {
	for len(k.fds) > 0 {
		k.close(k.fds[0])
	}
	if k.poller != nil {
		assert.NoError(k.t, k.poller.close())
		k.poller = nil
	}
}

func (k *kernelSide) own(fd int, errno syscall.Errno) int {
	k.t.Helper()
	require.Zero(k.t, errno)
	k.fds = append(k.fds, fd)
	return fd
}

func (k *kernelSide) close(fd int) {
	k.t.Helper()
	require.Zero(k.t, k.sys.close(fd))
	k.fds = slices.DeleteFunc(k.fds, func(other int) bool { return other == fd })
}

func (k *kernelSide) stream() int {
	k.t.Helper()
	return k.own(k.sys.socket(unix.AF_INET, unix.SOCK_STREAM))
}

// listener is a listening socket and its address.
func (k *kernelSide) listener() (fd int, addr netip.AddrPort) {
	k.t.Helper()
	fd, addr = k.bound(k.stream())
	require.Zero(k.t, k.sys.listen(fd, 8))
	return fd, addr
}

// bound gives fd an address.
func (k *kernelSide) bound(fd int) (int, netip.AddrPort) {
	k.t.Helper()
	require.Zero(k.t, k.sys.bind(fd, loopback))
	addr, errno := k.sys.localAddr(fd)
	require.Zero(k.t, errno)
	return fd, addr
}

// connect begins to connect a new socket.
func (k *kernelSide) connect(addr netip.AddrPort) int {
	k.t.Helper()
	fd := k.stream()
	require.Contains(k.t, []syscall.Errno{0, unix.EINPROGRESS}, k.sys.connect(fd, addr))
	return fd
}

// accept takes a connection when there is one.
func (k *kernelSide) accept(ln int) int {
	k.t.Helper()
	k.becomes(ln, readyRead)
	return k.own(k.sys.accept(ln))
}

// pair is the two ends of a connection: the one that was accepted, and the one
// that has connected.
func (k *kernelSide) pair() (near, far int) {
	k.t.Helper()
	ln, addr := k.listener()
	far = k.connect(addr)
	near = k.accept(ln)
	k.becomes(far, readyWrite)
	k.close(ln)
	return near, far
}

// ready is what fd is ready for now, found out by a registration of its own. The
// descriptor must not be in the poller.
func (k *kernelSide) ready(fd int) readiness {
	k.t.Helper()
	require.NoError(k.t, k.poller.add(fd, uint64(fd), sm.Read|sm.Write, false))
	ready := k.look(0)[fd]
	require.NoError(k.t, k.poller.remove(fd, sm.Read|sm.Write))
	return ready
}

// becomes waits until fd is ready for want, and for nothing else.
func (k *kernelSide) becomes(fd int, want readiness) {
	k.t.Helper()
	var ready readiness
	for until := time.Now().Add(patience); time.Now().Before(until); k.look(time.Millisecond) {
		if ready = k.ready(fd); ready == want {
			return
		}
	}
	require.Equal(k.t, want, ready, "readiness, as bits")
}

// look makes one wait, and says what it has reported.
func (k *kernelSide) look(timeout time.Duration) map[int]readiness {
	k.t.Helper()
	n, err := k.poller.wait(k.events, timeout)
	require.NoError(k.t, err)
	reported := map[int]readiness{}
	for _, ev := range k.events[:n] {
		reported[int(ev.key)] |= ev.ready
	}
	return reported
}

// event waits for one event of fd, which must be want.
func (k *kernelSide) event(fd int, want readiness) {
	k.t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if ready, ok := k.look(time.Millisecond)[fd]; ok {
			require.Equal(k.t, want, ready, "readiness, as bits")
			return
		}
	}
	require.FailNow(k.t, "no event comes")
}

// settle has all that is under way arrive.
func (k *kernelSide) settle() {
	k.t.Helper()
	for range 20 {
		k.look(0)
	}
}

// quiet makes some waits, none of which may report fd.
func (k *kernelSide) quiet(fd int) {
	k.t.Helper()
	for range 20 {
		require.NotContains(k.t, k.look(0), fd)
	}
}

func (k *kernelSide) write(fd int, text string) {
	k.t.Helper()
	n, errno := k.sys.write(fd, []byte(text))
	require.Zero(k.t, errno)
	require.Equal(k.t, len(text), n)
}

// reads reads exactly text.
func (k *kernelSide) reads(fd int, text string) {
	k.t.Helper()
	var got []byte
	for until := time.Now().Add(patience); len(got) < len(text) && time.Now().Before(until); {
		p := make([]byte, len(text)-len(got))
		n, errno := k.sys.read(fd, p)
		if errno == unix.EAGAIN {
			k.look(time.Millisecond)
			continue
		}
		require.Zero(k.t, errno)
		require.NotZero(k.t, n, "end of input")
		got = append(got, p[:n]...)
	}
	require.Equal(k.t, text, string(got))
}

// readFails reads, and must find no byte: errno 0 is the end of input.
func (k *kernelSide) readFails(fd int, errno syscall.Errno) {
	k.t.Helper()
	n, got := k.sys.read(fd, make([]byte, 8))
	require.Equal(k.t, errno, got)
	require.Zero(k.t, n)
}

func (k *kernelSide) writeFails(fd int, errno syscall.Errno) {
	k.t.Helper()
	_, got := k.sys.write(fd, []byte("x"))
	require.Equal(k.t, errno, got)
}

func (k *kernelSide) ends(fd int) {
	k.t.Helper()
	require.Zero(k.t, k.sys.shutdown(fd, unix.SHUT_WR))
}

// resets closes fd so that its peer gets a reset.
func (k *kernelSide) resets(fd int) {
	k.t.Helper()
	require.Zero(k.t, k.sys.setOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, 0))
	k.close(fd)
}

// pending is SO_ERROR.
func (k *kernelSide) pending(fd int) syscall.Errno {
	k.t.Helper()
	value, errno := k.sys.option(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	require.Zero(k.t, errno)
	return syscall.Errno(value)
}

// watch registers fd, with its number as the key.
func (k *kernelSide) watch(fd int, dirs sm.Dir, edge bool) {
	k.t.Helper()
	require.NoError(k.t, k.poller.add(fd, uint64(fd), dirs, edge))
}

// The cases of the poller and of the descriptor table.
var kernelPollerCases = map[string]func(k *kernelSide){
	"a level is reported until it is gone": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "ab")
		k.watch(near, sm.Read, false)
		k.event(near, readyRead)
		k.event(near, readyRead)
		k.reads(near, "a")
		k.event(near, readyRead)
		k.reads(near, "b")
		k.quiet(near)
	},
	"an edge is reported once, and again for what is new": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, true)
		k.quiet(near)
		k.write(far, "a")
		k.event(near, readyRead)
		k.quiet(near)
		k.write(far, "b")
		k.event(near, readyRead)
		k.quiet(near)
		k.reads(near, "ab")
		k.quiet(near)
	},
	"reading a part makes no edge": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "abc")
		k.becomes(near, readyRead|readyWrite)
		k.settle()
		k.watch(near, sm.Read, true)
		k.event(near, readyRead)
		k.reads(near, "a")
		k.quiet(near)
	},
	"an edge tells of everything that is ready": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read|sm.Write, true)
		k.event(near, readyWrite)
		k.write(far, "a")
		k.event(near, readyRead|readyWrite)
		k.quiet(near)
	},
	"a new registration tells what is ready already": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "a")
		k.becomes(near, readyRead|readyWrite)
		k.watch(near, sm.Read, true)
		k.event(near, readyRead)
	},
	"a changed registration tells it again": func(k *kernelSide) {
		near, far := k.pair()
		k.write(far, "a")
		k.watch(near, sm.Read, true)
		k.event(near, readyRead)
		k.quiet(near)
		require.NoError(k.t, k.poller.modify(near, uint64(near), sm.Read, sm.Read|sm.Write, true))
		k.event(near, readyRead|readyWrite)
	},
	"a changed registration has a new key": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, false)
		require.NoError(k.t, k.poller.modify(near, 1<<20, sm.Read, sm.Read, false))
		k.write(far, "a")
		k.event(1<<20, readyRead)
	},
	"what is not asked for is not told": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, false)
		k.quiet(near)
		k.write(far, "a")
		require.NoError(k.t, k.poller.modify(near, uint64(near), sm.Read, sm.Write, false))
		k.event(near, readyWrite)
		require.NoError(k.t, k.poller.modify(near, uint64(near), sm.Write, 0, false))
		k.quiet(near)
		k.ends(far)
		k.quiet(near)
	},
	"a hang-up and an error are told without being asked for": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, 0, false)
		k.quiet(near)
		k.resets(far)
		k.event(near, readyHangup|readyError)
		k.event(near, readyHangup|readyError)
	},
	"a descriptor that was removed is not reported": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, false)
		k.write(far, "a")
		k.event(near, readyRead)
		require.NoError(k.t, k.poller.remove(near, sm.Read))
		k.quiet(near)
		k.watch(near, sm.Read, false)
		k.event(near, readyRead)
	},
	"a descriptor that was closed is not reported": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Read, false)
		k.write(far, "a")
		k.event(near, readyRead)
		k.close(near)
		k.quiet(near)
	},
	"with room for one event, all get their turn": func(k *kernelSide) {
		near, far := k.pair()
		k.watch(near, sm.Write, false)
		k.watch(far, sm.Write, false)
		k.events = k.events[:1]
		seen := map[int]int{}
		for range 10 {
			for fd := range k.look(0) {
				seen[fd]++
			}
		}
		require.Equal(k.t, map[int]int{near: 5, far: 5}, seen)
	},
	"a wake ends the next wait, and several are one": func(k *kernelSide) {
		require.NoError(k.t, k.poller.wake())
		require.NoError(k.t, k.poller.wake())
		require.Empty(k.t, k.look(-1), "it would block for ever")
		begin := k.now()
		require.Empty(k.t, k.look(20*time.Millisecond))
		require.GreaterOrEqual(k.t, k.now()-begin, 20*time.Millisecond, "no wake is left")
		require.NoError(k.t, k.poller.wake())
		require.Empty(k.t, k.look(-1))
	},
	"a wake comes along with events": func(k *kernelSide) {
		near, _ := k.pair()
		k.watch(near, sm.Write, false)
		require.NoError(k.t, k.poller.wake())
		require.Equal(k.t, map[int]readiness{near: readyWrite}, k.look(-1))
	},
	"a wait is not over early": func(k *kernelSide) {
		for _, timeout := range []time.Duration{time.Nanosecond, time.Millisecond, 3*time.Millisecond + 1} {
			begin := k.now()
			require.Empty(k.t, k.look(timeout))
			require.GreaterOrEqual(k.t, k.now()-begin, timeout)
		}
	},
	"the lowest free number is the next descriptor": func(k *kernelSide) {
		fds := []int{k.stream(), k.stream(), k.stream()}
		require.IsIncreasing(k.t, fds)
		k.close(fds[2])
		k.close(fds[0])
		require.Equal(k.t, fds[0], k.stream())
		require.Equal(k.t, fds[2], k.stream())
		ln, addr := k.listener()
		k.connect(addr)
		k.close(fds[1])
		require.Equal(k.t, fds[1], k.accept(ln), "an accepted one, too")
	},
}

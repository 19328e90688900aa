package stepio

// How a loop waits, measured. The server's loops are in this process and do
// nothing else; each has a client of 1, 10 or 100 connections, in a process of
// its own on the last processor. The strategies take turns, so that the drift of
// a shared machine falls on all of them. docs/internals.md has the figures of
//
//	go test -run '^$' -bench Wait -benchtime 20x -cpu 1,2 .

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// lookFirst asks without blocking before every wait that may block.
type lookFirst struct{ poller }

func (p lookFirst) wait(events []event, timeout time.Duration) (int, error) {
	if n, err := p.poller.wait(events, 0); n > 0 || err != nil || timeout == 0 {
		return n, err
	}
	return p.poller.wait(events, timeout)
}

// rawFirst waits for a while without telling the Go scheduler before every wait
// that may block, with epoll_pwait2, which counts in nanoseconds.
type rawFirst struct {
	*epoll
	most time.Duration
}

func (p rawFirst) wait(events []event, timeout time.Duration) (int, error) {
	if timeout != 0 {
		brief := unix.NsecToTimespec(int64(p.most))
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd),
			uintptr(unsafe.Pointer(&p.buf[0])), uintptr(len(p.buf)), uintptr(unsafe.Pointer(&brief)), 0, 0)
		if errno == 0 && n > 0 {
			return p.translate(events, int(n)), nil
		}
	}
	return p.epoll.wait(events, timeout)
}

// never is when a loop that does not yield yields next.
const never = time.Duration(math.MaxInt64 / 2)

func BenchmarkWait(b *testing.B) {
	strategies := []struct {
		name   string
		yields bool
		locked bool // the loop's goroutine, to its thread
		wrap   func(poller) poller
	}{
		{"yield", true, false, func(p poller) poller { return p }},
		{"yield-locked", true, true, func(p poller) poller { return p }},
		{"block", false, false, func(p poller) poller { return p }},
		{"look-first", true, false, func(p poller) poller { return lookFirst{p} }},
		{"raw-50us", true, false, func(p poller) poller { return rawFirst{p.(*epoll), 50 * time.Microsecond} }},
		{"raw-5ms", true, false, func(p poller) poller { return rawFirst{p.(*epoll), 5 * time.Millisecond} }},
	}
	for _, conns := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			var clients []*waitClient
			for _, s := range strategies {
				clients = append(clients, startWaitClient(b, serveWait(b, s.yields, s.locked, s.wrap), conns))
			}
			requests := make([]float64, len(clients))
			cpu := make([]time.Duration, len(clients))
			medians := make([][]float64, len(clients))
			for b.Loop() {
				for i, c := range clients {
					before := processCPU(b)
					n, p50 := c.window(b, 200*time.Millisecond)
					cpu[i] += processCPU(b) - before
					requests[i] += n
					medians[i] = append(medians[i], p50)
				}
			}
			b.StopTimer()
			b.ReportMetric(0, "ns/op")
			for i, s := range strategies {
				slices.Sort(medians[i])
				b.ReportMetric(float64(cpu[i].Microseconds())/requests[i], s.name+"-cpu-us/req")
				b.ReportMetric(medians[i][len(medians[i])/2], s.name+"-p50-us")
			}
			before := processCPU(b)
			time.Sleep(time.Second) // nobody sends: what is measured is the rest
			b.ReportMetric(float64((processCPU(b) - before).Microseconds()), "idle-cpu-us/s")
		})
	}
}

// serveWait runs an echo server whose loop waits as wrap says.
func serveWait(b *testing.B, yields, locked bool, wrap func(poller) poller) netip.AddrPort {
	l, err := NewLoop()
	require.NoError(b, err)
	l.poller = wrap(l.poller)
	if !yields {
		l.yielder.last = never
	}
	ln, err := ListenTCP(l, netip.MustParseAddrPort("127.0.0.1:0"), ListenOptions{})
	require.NoError(b, err)
	l.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame { return &echoFrame{conn: c} }))
	stopped := make(chan error, 1)
	go func() {
		if locked {
			runtime.LockOSThread()
		}
		stopped <- l.Run()
	}()
	b.Cleanup(func() {
		l.Stop()
		require.NoError(b, <-stopped)
		require.NoError(b, l.Close())
	})
	return ln.Addr()
}

func processCPU(b *testing.B) time.Duration {
	var used unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// waitClient is the client's process. It pings in windows, on demand.
type waitClient struct {
	in  io.Writer
	out *bufio.Reader
}

const waitClientEnv = "STEPIO_WAIT_CLIENT" // "address connections", in the client's process

func startWaitClient(b *testing.B, addr netip.AddrPort, conns int) *waitClient {
	cmd := exec.Command(os.Args[0], "-test.run", "^TestWaitClientProcess$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%v %d", waitClientEnv, addr, conns), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	onLastProcessor(b, func() { require.NoError(b, cmd.Start()) })
	b.Cleanup(func() {
		require.NoError(b, in.Close())
		says, err := io.ReadAll(out)
		require.NoError(b, err)
		require.NoError(b, cmd.Wait(), "%s", says)
	})
	return &waitClient{in, bufio.NewReader(out)}
}

// onLastProcessor calls fn on a thread that has the last processor alone: a
// process that it starts inherits that.
func onLastProcessor(b *testing.B, fn func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, last unix.CPUSet
	require.NoError(b, unix.SchedGetaffinity(0, &all))
	for cpu := runtime.NumCPU() - 1; last.Count() == 0; cpu-- {
		if all.IsSet(cpu) {
			last.Set(cpu)
		}
	}
	require.NoError(b, unix.SchedSetaffinity(0, &last))
	defer func() { require.NoError(b, unix.SchedSetaffinity(0, &all)) }()
	fn()
}

// window has the client ping for d, and returns how often and the median time
// of one, in microseconds.
func (c *waitClient) window(b *testing.B, d time.Duration) (requests, p50 float64) {
	_, err := fmt.Fprintln(c.in, d)
	require.NoError(b, err)
	line, err := c.out.ReadString('\n')
	require.NoError(b, err)
	_, err = fmt.Sscan(line, &requests, &p50)
	require.NoError(b, err, line)
	return requests, p50
}

// TestWaitClientProcess is the client of BenchmarkWait when it runs in a process
// of its own; as a test it has nothing to do.
func TestWaitClientProcess(t *testing.T) {
	role := strings.Fields(os.Getenv(waitClientEnv))
	if len(role) == 0 {
		return
	}
	addr := netip.MustParseAddrPort(role[0])
	conns, err := strconv.Atoi(role[1])
	require.NoError(t, err)
	w := newTestLoop(t, func(c *loopConfig) { c.check = false }) // it must be fast
	var pingers []*pinger
	for range conns {
		p := &pinger{dial: DialTCP(w.Loop, addr, DialOptions{})}
		w.Spawn(p)
		pingers = append(pingers, p)
	}
	w.until("every client is connected", func() bool {
		return !slices.ContainsFunc(pingers, func(p *pinger) bool { return p.state == pingDialing })
	})
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		d, err := time.ParseDuration(commands.Text())
		require.NoError(t, err)
		end := time.Now().Add(d)
		var times []time.Duration
		for _, p := range pingers {
			p.end, p.times = end, p.times[:0]
			p.task.Wake()
		}
		w.until("the window is over", func() bool { return !time.Now().Before(end) && !slices.ContainsFunc(pingers, (*pinger).busy) })
		for _, p := range pingers {
			times = append(times, p.times...)
		}
		slices.Sort(times)
		fmt.Println(len(times), float64(times[len(times)/2].Nanoseconds())/1e3)
	}
}

// pinger sends a message and waits for it to come back, until the window ends.
type pinger struct {
	dial  Dial
	conn  *TCPConn
	task  sm.Waker
	sent  time.Time
	end   time.Time
	times []time.Duration
	state pingState
}

type pingState uint8

const (
	pingDialing pingState = iota // connects
	pingIdle                     // waits for a window
	pingWaiting                  // waits for the answer
)

func (p *pinger) busy() bool { return p.state == pingWaiting }

func (p *pinger) Step(t *sm.Task) sm.Await {
	const size = 64
	for {
		switch p.state {
		case pingDialing:
			if a := p.dial.Step(t); a.Pending() {
				return a
			}
			conn, err := p.dial.Result()
			if err != nil {
				panic(err)
			}
			p.conn, p.task, p.state = conn, t.Waker(), pingIdle
		case pingIdle:
			now := time.Now()
			if !now.Before(p.end) {
				return sm.Park
			}
			n, err := p.conn.Write(t.Scratch()[:size])
			if n == 0 && err == ErrWouldBlock { // the step's budget is used up
				return p.conn.Writable()
			}
			if n != size {
				panic(fmt.Sprint("short write: ", err))
			}
			p.sent, p.state = now, pingWaiting
		case pingWaiting:
			n, err := p.conn.Read(t.Scratch())
			if err == ErrWouldBlock {
				return p.conn.Readable()
			}
			if n != size {
				panic(fmt.Sprint("short read: ", err))
			}
			p.times = append(p.times, time.Since(p.sent))
			p.state = pingIdle
		default:
			panic(fmt.Sprintf("pinger.Step: state %d", p.state))
		}
	}
}

func (p *pinger) Close() error { return p.conn.Close() }

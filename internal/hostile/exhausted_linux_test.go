package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that has no descriptors left, and a kernel that has no memory: who
// is there is served, who comes waits in the queue, and the loop does not spin.

// The bounds: of waits a second, meanwhile, the ten of a task that looks at the
// clock included; and of the time until a connection in the queue is served,
// once there is a descriptor for it.
const (
	mostWaits   = 50
	mostQueuing = time.Second
)

func TestServerWithoutDescriptors(t *testing.T) {
	for mode, pick := range acceptors {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := newStarved(t, pick)
			s.server.ask("hold", 1) // a descriptor of somebody else's
			s.server.ask("room", 4)
			guests := []*visitor{s.visit(), s.visit(), s.visit(), s.visit()}
			for _, g := range guests {
				g.served()
			}
			first, second, third := s.visit(), s.visit(), s.visit()
			s.suffer("no descriptor left, "+mode, "")
			for _, g := range guests {
				g.ping() // who is there is served
			}
			for _, v := range []*visitor{first, second, third} {
				v.silent()
			}

			freed := time.Now()
			guests[0].close()
			first.served()
			ours := time.Since(freed)
			freed = time.Now()
			s.server.ask("drop", 0)
			second.served()
			others := time.Since(freed)
			third.silent()
			freed = time.Now()
			s.server.ask("restore", 0)
			third.served()
			raised := time.Since(freed)
			behaves(t, "no descriptor left, "+mode+": until the queued peer is served, after the loop, another, the limit gave one",
				micros(ours)+", "+micros(others)+", "+micros(raised), "1 s", max(ours, others, raised) < mostQueuing)
			s.settle()
		})
	}
}

// What a limit cannot bring about here is injected into accept4(2).
func TestServerWithoutKernelMemory(t *testing.T) {
	mayTrace(t)
	for mode, pick := range acceptors {
		for _, errno := range []string{"ENFILE", "ENOBUFS", "ENOMEM"} {
			t.Run(errno+" "+mode, func(t *testing.T) {
				t.Parallel()
				s := newStarved(t, pick)
				guest := s.visit()
				guest.served()
				var queued *visitor
				s.meanwhile = func() {
					queued = s.visit()
					guest.ping()
					queued.silent()
				}
				s.suffer(errno+", "+mode, errno)
				freed := time.Now()
				queued.served()
				took := time.Since(freed)
				behaves(t, errno+", "+mode+": until the queued peer is served", micros(took), "1 s", took < mostQueuing)
				s.settle()
			})
		}
	}
}

// acceptors are a server's listeners.
var acceptors = map[string]func(serverHello) netip.AddrPort{
	"level": func(h serverHello) netip.AddrPort { return h.Level },
	"edge":  func(h serverHello) netip.AddrPort { return h.Edge },
}

// starved is a server that is short of something.
type starved struct {
	t         *testing.T
	server    *child
	addr      netip.AddrPort
	epoll     int
	before    serverStat
	visitors  []*visitor
	meanwhile func() // done while it is watched; nil: nothing
}

func newStarved(t *testing.T, pick func(serverHello) netip.AddrPort) *starved {
	server, hello := startServer(t, serverConfig{})
	return &starved{t: t, server: server, addr: pick(hello), epoll: hello.Epoll, before: server.ask("stat", 0)}
}

// suffer watches the server for a while, counts its waits, where strace can, and
// has its accepts fail, where an errno is given.
func (s *starved) suffer(name, errno string) {
	d := window(time.Second)
	before := s.server.ask("stat", 0)
	begun := time.Now()
	waits, accepts, traced := watch(s.t, s.server.cmd.Process.Pid, s.epoll, errno, func() {
		if s.meanwhile != nil {
			s.meanwhile()
		}
		<-time.After(d)
	})
	took := time.Since(begun)
	after := s.server.ask("stat", 0)
	assert.GreaterOrEqual(s.t, after.Ticks-before.Ticks, 2, "other tasks run")
	// A loop that spins takes all that there is.
	assert.Less(s.t, after.CPU-before.CPU, took/2)
	if !traced {
		figure(name+": waits a second", "not measured: no strace", "under 50", false)
		return
	}
	if errno != "" {
		assert.Positive(s.t, accepts)
	}
	rate := float64(waits) / took.Seconds()
	s.t.Logf("%s: %d waits, %d accepts in %v, server's CPU %v", name, waits, accepts, took, after.CPU-before.CPU)
	behaves(s.t, name+": waits a second, 10 of a ticker included", fmt.Sprintf("%.0f", rate), fmt.Sprintf("under %d", mostWaits), rate < mostWaits)
}

// settle has everybody leave, and sees to it that nothing is left of them.
func (s *starved) settle() {
	for _, v := range s.visitors {
		v.close()
	}
	after := s.server.eventually("all have left", func(x serverStat) bool { return x.Opened == len(s.visitors) && x.Closed == x.Opened })
	assert.Equal(s.t, []int{s.before.Tasks, s.before.FDs, s.before.Registrations, 0}, []int{after.Tasks, after.FDs, after.Registrations, after.Twice})
	assert.Empty(s.t, after.Reports)
}

// visitor is a client, who may be in the queue.
type visitor struct {
	t    *testing.T
	conn net.Conn
}

// visit connects and says something.
func (s *starved) visit() *visitor {
	conn, err := net.Dial("tcp", s.addr.String())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	_, err = conn.Write([]byte{wantEcho, 'h', 'i'})
	require.NoError(s.t, err)
	v := &visitor{s.t, conn}
	s.visitors = append(s.visitors, v)
	return v
}

// served waits for the answer to what visit has said.
func (v *visitor) served() {
	v.t.Helper()
	require.NoError(v.t, v.conn.SetReadDeadline(time.Now().Add(patience)))
	var answer [2]byte
	_, err := io.ReadFull(v.conn, answer[:])
	require.NoError(v.t, err, "served")
	require.Equal(v.t, "hi", string(answer[:]))
}

// ping says something more and waits for the answer.
func (v *visitor) ping() {
	v.t.Helper()
	_, err := v.conn.Write([]byte("hi"))
	require.NoError(v.t, err)
	v.served()
}

// silent sees to it that nothing has come.
func (v *visitor) silent() {
	v.t.Helper()
	require.NoError(v.t, v.conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, err := v.conn.Read(make([]byte, 1))
	require.ErrorIs(v.t, err, os.ErrDeadlineExceeded)
}

func (v *visitor) close() {
	if err := v.conn.Close(); err != nil {
		assert.ErrorIs(v.t, err, net.ErrClosed)
	}
}

// mayTrace skips a test where there is no strace.
func mayTrace(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: strace is not installed (Debian: apt-get install strace)")
	}
}

// watch has strace count a process's waits for events of one epoll descriptor,
// and its accepts, while fn runs. With an errno, the accepts fail with it. Traced is false where that
// cannot be done.
func watch(t *testing.T, pid, epoll int, errno string, fn func()) (waits, accepts int, traced bool) {
	log := filepath.Join(t.TempDir(), "log")
	args := []string{"-f", "-p", strconv.Itoa(pid), "-o", log, "-e", "trace=epoll_pwait,accept4"}
	if errno != "" {
		args = append(args, "-e", "inject=accept4:error="+errno)
	}
	strace := exec.Command("strace", args...)
	says, err := strace.StderrPipe()
	require.NoError(t, err)
	if err := strace.Start(); err != nil {
		fn()
		return 0, 0, false
	}
	said := bufio.NewReader(says)
	if line, err := said.ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
		_ = strace.Wait() // it has said what was wrong
		if errno != "" {
			t.Skipf("SKIPPED: strace may not attach here: %s", strings.TrimSpace(line))
		}
		fn()
		return 0, 0, false
	}
	fn()
	require.NoError(t, strace.Process.Signal(os.Interrupt))
	_, err = io.Copy(io.Discard, said)
	require.NoError(t, err)
	_ = strace.Wait() // its exit code is the signal's
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	// The Go runtime waits too, for a descriptor of its own.
	return strings.Count(string(text), fmt.Sprintf("epoll_pwait(%d,", epoll)), strings.Count(string(text), "accept4("), true
}

//go:build linux || darwin

package stepio

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/internal/testseed"
	"github.com/stepio-go/stepio/sm"
)

// The deterministic simulation: the real Loop, TCP and UDP code over a kernel
// that exists in memory only, driven by one seed. Nothing of a run depends on
// anything else: the same seed makes the same calls. Workloads and faults are
// drawn for each seed (see sim.plan); what has to hold is in simWatch, simulate
// and sim.blocking.

var (
	simSeeds = flag.Int("seeds", 0, "TestSim: how many seeds; 0: 2,000, under the race detector 100")
	simFirst = flag.Uint64("first", 1, "TestSim: the first of the seeds")
	simTrace = flag.Bool("calls", false, "TestSim: with -seed, write every call to standard error")
)

// simEnough is the number of seeds from which on every fault must have happened.
// The fewer that the race detector gets unless it is told hit every one as well.
const simEnough = 2000

func TestSim(t *testing.T) {
	if seed := testseed.Given(); seed != 0 {
		var trace io.Writer
		if *simTrace {
			trace = os.Stderr
		}
		first := simulate(seed, trace)
		first.require(t)
		assert.Equal(t, first.hash, simulate(seed, nil).hash, "the same seed makes other calls")
		t.Logf("seed %d: trace hash %016x, %d calls, %d turns", seed, first.hash, first.calls, first.turns)
		return
	}
	seeds := *simSeeds
	if seeds == 0 {
		seeds = simSeedsHere
	}
	enough := seeds >= simEnough || seeds == simSeedsHere && *simFirst == 1
	var hits [simkernel.Faults]int
	calls, turns, clean, checked := 0, 0, 0, 0
	for s := range seeds {
		result := simulate(*simFirst+uint64(s), nil)
		result.require(t)
		calls += result.calls
		turns += result.turns
		if !result.disturbed {
			clean++
		}
		if result.checked {
			checked++
		}
		for f, n := range result.hits {
			hits[f] += n
		}
	}
	t.Logf("%d seeds from %d, %d calls, %d turns; %d seeds with no connection broken, %d in check mode", seeds, *simFirst, calls, turns, clean, checked)
	if enough {
		assert.NotZero(t, clean, "no run without a broken connection")
		assert.NotZero(t, checked, "no run in check mode")
	}
	for f, n := range hits {
		t.Logf("%-16v %8d", simkernel.Fault(f), n)
		if enough {
			assert.NotZero(t, n, "%v never happened", simkernel.Fault(f))
		}
	}
}

func TestSimSameSeedSameTrace(t *testing.T) {
	for s := range uint64(20) {
		assert.Equal(t, simulate(s, nil).hash, simulate(s, nil).hash, "seed %d", s)
	}
	assert.NotEqual(t, simulate(1, nil).hash, simulate(2, nil).hash)
}

// Nothing of a process decides about a run: no address, no map, no time of day.
func TestSimSameSeedSameTraceInAnotherProcess(t *testing.T) {
	const seed = 3
	out, err := exec.Command(os.Args[0], "-test.run=^TestSim$", "-test.v", fmt.Sprintf("-seed=%d", seed)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), fmt.Sprintf("trace hash %016x", simulate(seed, nil).hash))
}

// The bits of readiness and those of the simulated kernel are the same.
func TestSimReadinessIsTranslated(t *testing.T) {
	assert.Equal(t, [...]readiness{readyRead, readyWrite, readyEnd, readyHangup, readyError},
		[...]readiness{readiness(simkernel.Readable), readiness(simkernel.Writable), readiness(simkernel.Ended),
			readiness(simkernel.HungUp), readiness(simkernel.Failed)})
}

// simResult is what a run ends with.
type simResult struct {
	seed         uint64
	hash         uint64
	calls, turns int
	checked      bool
	hits         [simkernel.Faults]int
	disturbed    bool
	problems     []string
	tasks        string // at the first problem
}

func (r *simResult) require(t *testing.T) {
	t.Helper()
	if len(r.problems) > 0 {
		require.FailNow(t, "simulation failed", "%s\n%s\n%s", simAgain(r.seed), r.problems[0], r.tasks)
	}
}

// simAgain says how to repeat a run.
func simAgain(seed uint64) string {
	return fmt.Sprintf("again with: go test -run '^TestSim$' . -seed %d -calls", seed)
}

// sim is one run.
type sim struct {
	*Loop
	k         *simkernel.Kernel
	rnd       *rand.Rand
	turn      int
	steps     int  // of tasks that are watched
	vain      int  // turns in a row without one
	idle      bool // nothing will ever happen any more
	checked   bool // in check mode
	looking   bool // in blocking
	disturbed bool // a task or a connection was ended before its time
	problems  []string
	tasks     string

	watches  []*simWatch
	conns    []simConn
	servers  []*sm.Task  // which end with the run
	accepts  []*simWatch // those of them that accept, which nothing but a refused wait ends before
	clients  []*simWatch
	echoAt   netip.AddrPort
	proxyAt  netip.AddrPort
	sinkAt   netip.AddrPort // not valid: there is none
	udpAt    netip.AddrPort
	pool     *Pool // without workers: the simulation does their work
	working  []work
	most     int // bytes that a connection holds whatever happens
	maxOps   int
	destroys uint32 // how often a step is preceded by the end of another task, of 1024
	closes   uint32 // likewise, by the close of a connection
	handsOn  bool   // connections are handed over
	posted   int
	ran      int
	jobs     simJobs
	messages bool // its clients are those of simSession
}

// simConn is a connection and the open file that it has.
type simConn struct {
	conn *TCPConn
	id   int
}

// maxSimVain is how many turns in a row may step nobody: spurious events and
// posts cause some.
const maxSimVain = 64

// maxSimTurns is more than any run takes.
const maxSimTurns = 200_000

// simPatience is more than any run takes, on any machine.
const simPatience = time.Minute

// simulate makes one run. One that does not end, in a step for instance, ends the
// process and says which it was.
func simulate(seed uint64, trace io.Writer) *simResult {
	guard := time.AfterFunc(simPatience, func() {
		debug.SetTraceback("all")
		panic("simulation: no end: " + simAgain(seed))
	})
	defer guard.Stop()
	s := &sim{rnd: rand.New(rand.NewPCG(seed, 0x5eed))}
	s.run(trace)
	return &simResult{
		seed: seed, hash: s.k.Hash(), calls: s.k.Calls, turns: s.turn, hits: s.k.Hits, checked: s.checked,
		disturbed: s.disturbed || s.k.Disturbed, problems: s.problems, tasks: s.tasks,
	}
}

// run makes a run. A panic outside every step, which ends no task, is a problem of
// the run's.
func (s *sim) run(trace io.Writer) {
	defer func() {
		if v := recover(); v != nil {
			s.problems = append([]string{fmt.Sprintf("turn %d: panic: %v\n%s", s.turn, v, debug.Stack())}, s.problems...)
		}
	}()
	s.play(trace)
}

// play is run without the recovery.
func (s *sim) play(trace io.Writer) {
	s.start(trace)
	early := maxSimTurns
	if s.rnd.IntN(16) == 0 {
		early = s.rnd.IntN(200)
	}
	for !s.over() && s.turn < early {
		s.advance()
		if s.idle {
			s.problem("tasks wait for ever")
		}
	}
	switch {
	case len(s.problems) > 0:
	case s.turn == maxSimTurns:
		s.problem("does not come to an end")
	case s.turn == early:
		s.k.Count(simkernel.StopEarly)
	default:
		s.wind()
	}
	s.finish()
}

// problem notes what must not be.
func (s *sim) problem(format string, args ...any) {
	if len(s.problems) == 0 {
		var tasks bytes.Buffer
		_ = s.sched.Dump(&tasks) // a buffer takes everything
		s.tasks = tasks.String()
	}
	s.problems = append(s.problems, fmt.Sprintf("turn %d: ", s.turn)+fmt.Sprintf(format, args...))
}

// advance makes one turn.
func (s *sim) advance() {
	s.turn++
	before, interrupted := s.steps, s.k.Hits[simkernel.Interrupted]
	if err := s.Loop.turn(); err != nil {
		s.problem("turn: %v", err)
	}
	for _, v := range s.k.Violations {
		s.problem("%s", v)
	}
	s.k.Violations = nil
	// A kernel that interrupts every wait makes the loop turn, as often as it likes.
	if s.vain++; s.steps != before || s.k.Hits[simkernel.Interrupted] != interrupted {
		s.vain = 0
	}
	if s.vain == maxSimVain {
		s.problem("the loop spins: %d turns, and no task was stepped", s.vain)
	}
}

// over reports whether the clients have ended, or something is wrong.
func (s *sim) over() bool {
	if len(s.problems) > 0 {
		return true
	}
	for len(s.clients) > 0 && s.clients[len(s.clients)-1].task.Ended() {
		s.clients = s.clients[:len(s.clients)-1]
	}
	return len(s.clients) == 0
}

// wind ends the servers; what they have started must end by itself then, since
// its peers have.
func (s *sim) wind() {
	for _, w := range s.accepts {
		if w.task.Ended() && s.k.Hits[simkernel.RefusedInterest] == 0 {
			s.problem("%s accepts no more: %v", w.name, w.task.Err())
		}
	}
	for _, task := range s.servers {
		task.Destroy()
	}
	for s.idle = false; !s.idle && len(s.problems) == 0 && s.turn < maxSimTurns; {
		s.advance()
	}
	switch {
	case len(s.problems) > 0:
	case !s.idle:
		s.problem("does not come to rest")
	case s.Tasks() != 0:
		s.problem("%d tasks are left whose peers have gone", s.Tasks())
	case s.sched.Timeout() >= 0:
		s.problem("a timer is left that no task has")
	case len(s.starved) != 0:
		s.problem("a listener that is closed rests")
	}
}

// finish closes the loop and looks for what is left.
func (s *sim) finish() {
	s.k.Ending = true
	if err := s.Close(); err != nil {
		s.problem("Close: %v", err)
	}
	for s.work() {
	}
	if n := s.Tasks(); n != 0 {
		s.problem("%d tasks are left", n)
	}
	if files, registrations := s.k.Open(); files != 0 || registrations != 0 {
		s.problem("%d descriptors and %d registrations are left", files, registrations)
	}
	s.forgotten()
	for _, w := range s.watches {
		if w.closes != 1 {
			s.problem("%s was closed %d times", w.name, w.closes)
		}
	}
	if s.posted != s.ran {
		s.problem("%d functions were posted, %d have run", s.posted, s.ran)
	}
	if s.jobs.done != s.jobs.taken+s.jobs.dropped {
		s.problem("%d jobs have a result, %d were taken, %d dropped", s.jobs.done, s.jobs.taken, s.jobs.dropped)
	}
	for _, v := range s.k.Violations {
		s.problem("%s", v)
	}
}

// forgotten looks for slots and timers that nobody has any more.
func (s *sim) forgotten() {
	for _, piece := range s.slots.pieces {
		for fd := range piece {
			if left := piece[fd]; left != (slot{gen: left.gen}) {
				s.problem("the slot of descriptor %d is left: %+v", fd, left)
			}
		}
	}
	if !s.sched.Busy() && s.sched.Timeout() >= 0 {
		s.problem("a timer is left")
	}
}

// blocking is called when the loop is about to block: nobody may have anything
// to do then.
func (s *sim) blocking(forever bool) {
	s.looking = true
	defer func() { s.looking = false }()
	if s.sched.Busy() || !s.mail.empty() {
		s.problem("the loop blocks with a task ready or a post waiting: a lost wake")
	}
	for _, w := range s.watches {
		w.blocking()
	}
	for _, c := range s.conns {
		if fd := c.conn.FD(); fd >= 0 && s.k.ID(fd) != c.id {
			s.problem("descriptor %d is another file than the connection's", fd)
		}
	}
	if s.work() {
		return
	}
	if forever {
		s.idle = true
	}
}

// elsewhere does what another goroutine may do at any moment.
func (s *sim) elsewhere() {
	if s.Loop == nil || s.looking {
		return // it is being made; what is looked at must not change meanwhile
	}
	switch s.rnd.IntN(3) {
	case 0:
		if s.Post(s.post) == nil {
			s.posted++
			s.k.Count(simkernel.Post)
		}
	case 1:
		if w := s.anyone(); w != nil {
			w.wakes = true
			w.task.Waker().Wake()
			s.k.Count(simkernel.Wake)
		}
	default:
		s.work()
	}
}

// work does some of a pool's: it begins a function, or ends it. It reports
// whether there was any.
func (s *sim) work() bool {
	if s.pool.line.first != nil && (len(s.working) == 0 || s.rnd.IntN(2) == 0) {
		s.working = append(s.working, s.pool.next().work)
		return true
	}
	if len(s.working) == 0 {
		return false
	}
	w := s.working[0]
	s.working = s.working[1:]
	run(w)
	return true
}

// anyone is a task by chance, nil when it has not run yet.
func (s *sim) anyone() *simWatch {
	if len(s.watches) == 0 {
		return nil
	}
	if w := s.watches[s.rnd.IntN(len(s.watches))]; w.task != nil {
		return w
	}
	return nil
}

// post is a function that was posted.
func (s *sim) post() {
	s.ran++
	s.interfere()
}

// interfere ends a task or a connection before its time, where that is drawn.
func (s *sim) interfere() {
	s.endSomeone()
	s.closeSomething()
}

func (s *sim) endSomeone() {
	if s.rnd.Uint32N(1024) < s.destroys {
		if w := s.anyone(); w != nil && !w.server && !w.task.Ended() {
			s.disturbed = true
			s.k.Count(simkernel.Destroy)
			w.task.Destroy()
		}
	}
}

func (s *sim) closeSomething() {
	if s.rnd.Uint32N(1024) < s.closes && len(s.conns) > 0 {
		c := s.conns[s.rnd.IntN(len(s.conns))].conn
		if c.FD() >= 0 && !c.slot().waiters.Empty() {
			s.disturbed = true
			s.k.Count(simkernel.CloseUnderWaiter)
			if err := c.Close(); err != nil {
				s.problem("Close: %v", err)
			}
		}
	}
}

// report gets what fails and nobody waits for.
func (s *sim) report(t *sm.Task, err error) {
	if _, ok := err.(*sm.PanicError); ok || !s.broken() {
		chain := ""
		if t != nil {
			chain = t.Chain()
		}
		s.problem("report of %s: %v", chain, err)
	}
}

// broken reports whether failures are to be expected.
func (s *sim) broken() bool { return s.disturbed || s.k.Disturbed }

// ends judges an end of input, of a connection that has reported no error: it must
// not be that of a reset, or a stream that was cut short would look complete.
func (s *sim) ends(c *TCPConn) {
	if !s.k.Finished(c.FD()) {
		s.problem("descriptor %d reads the end of input, and its peer has not ended it", c.FD())
	}
}

// opened remembers whose descriptor a connection has.
func (s *sim) opened(c *TCPConn) *TCPConn {
	s.conns = append(s.conns, simConn{c, s.k.ID(c.FD())})
	return c
}

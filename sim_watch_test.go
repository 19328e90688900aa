//go:build linux || darwin

package stepio

import (
	"io"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/sm"
)

// simWatch is a frame around each frame of a simulation. It checks what holds
// for every task: it is closed once and not stepped afterwards, it is not resumed
// by another's event, a step keeps to its budget, and nothing that it waits for
// is there while the loop blocks.
type simWatch struct {
	s       *sim
	frame   sm.Frame
	name    string
	task    *sm.Task
	server  bool
	batches bool // an operation is many calls
	closes  int
	wakes   bool // woken, and not stepped since

	waiting bool     // its last step waits
	await   sm.Await // for this
	id      int      // of the open file that it waits for
	since   int      // the poller's waits when it began
}

// spawn starts frame as a task that is watched.
func (s *sim) spawn(name string, frame sm.Frame) *simWatch {
	w := s.watch(name, frame)
	w.task = s.Spawn(w)
	return w
}

// watch is a frame for others to start: w.task is known from the first step on.
func (s *sim) watch(name string, frame sm.Frame) *simWatch {
	return &simWatch{s: s, frame: frame, name: name}
}

func (w *simWatch) Step(t *sm.Task) sm.Await {
	s := w.s
	if w.task == nil {
		w.task = t
	}
	if w.closes > 0 {
		s.problem("%s is stepped after its Close", w.name)
	}
	w.resumed(t)
	w.waiting = false
	w.wakes = w.wakes && !t.Woken()
	s.steps++
	s.interfere()
	before := s.k.Moves
	a := w.frame.Step(t)
	s.endSomeone() // what the frame has answered stands
	if moves := s.k.Moves - before; moves > s.maxOps && !w.batches {
		s.problem("%s makes %d operations in a step, of %d", w.name, moves, s.maxOps)
	}
	w.waiting, w.await = a.Pending() && a != sm.Yield, a
	w.id, w.since = s.k.ID(a.FD()), s.k.Waits()
	return a
}

// resumed checks that an event of the descriptor itself has resumed a task that
// waited, level-triggered.
func (w *simWatch) resumed(t *sm.Task) {
	if !w.waiting || w.await.Edge() || t.Ready() == 0 {
		return
	}
	fd := w.await.FD()
	if w.s.k.ID(fd) != w.id {
		return // closed meanwhile, perhaps after its event
	}
	read, write := w.s.k.Reported(fd)
	if t.Ready()&sm.Read != 0 && read <= w.since || t.Ready()&sm.Write != 0 && write <= w.since {
		w.s.problem("%s, which waited for %v, is resumed by another descriptor's event", w.name, w.await)
	}
}

// blocking checks that what the task waits for is not there.
func (w *simWatch) blocking() {
	if w.task == nil || w.task.Ended() {
		return
	}
	s := w.s
	if w.wakes {
		s.problem("%s was woken, and is not stepped: a lost wake", w.name)
	}
	if !w.waiting {
		return
	}
	if when, ok := w.await.Deadline(); ok && s.timePassed(when) {
		s.problem("%s waits for %v, which is over: a lost timer", w.name, w.await)
	}
	fd := w.await.FD()
	if fd < 0 {
		return
	}
	if s.k.ID(fd) != w.id {
		s.problem("%s waits for a descriptor that is closed: %v", w.name, w.await)
	}
	if ready := readiness(s.k.Ready(fd)).dirs() & w.await.Dir(); ready != 0 {
		s.problem("%s waits for %v, which is ready: a lost event", w.name, w.await)
	}
}

// timePassed reports whether when is over by more than the poller may round.
func (s *sim) timePassed(when time.Time) bool {
	return s.sched.Now().Sub(when) > 3*time.Millisecond
}

func (w *simWatch) Close() error {
	w.closes++
	if c, ok := w.frame.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (w *simWatch) Err() error {
	if f, ok := w.frame.(interface{ Err() error }); ok {
		return f.Err()
	}
	return nil
}

func (w *simWatch) Inspect() (string, sm.Frame) { return w.name, w.frame }

// start draws a run: which faults there are and how often, and who does what.
func (s *sim) start(trace io.Writer) {
	rnd := s.rnd
	config := simkernel.Config{
		Rand:          rnd,
		SendBuffer:    1 + rnd.IntN(1<<rnd.IntN(15)),
		ReceiveBuffer: 1 + rnd.IntN(1<<rnd.IntN(15)),
		Trace:         trace,
		Concurrent:    s.elsewhere,
		Blocking:      s.blocking,
	}
	for f := range simkernel.Drawn {
		switch {
		case rnd.IntN(2) == 0:
		case simkernel.Breaks(f):
			config.Rates[f] = 1 << rnd.IntN(5) // a run that breaks at once tells little
			if rnd.IntN(2) == 0 {
				config.Rates[f] = 0
			}
		default:
			config.Rates[f] = 8 << rnd.IntN(6)
		}
	}
	config.Rates[simkernel.StaleEvent] *= 4 // there are few occasions
	config.Rates[simkernel.Aborted] *= 8    // one an accept
	config.Rates[simkernel.Unanswered] *= 8
	if rnd.IntN(8) == 0 {
		config.Rates[simkernel.Reset] = 128 // so that some come between two reads of a drain
	}
	s.pool = &Pool{bound: 2}
	s.pool.wanted.L = &s.pool.mu
	clients, proxied := 1+rnd.IntN(6), rnd.IntN(2) == 0
	if !proxied && rnd.IntN(4) == 0 {
		config.Files = clients + 5 + rnd.IntN(3)
	}
	s.k, s.most = simkernel.New(config), config.ReceiveBuffer
	s.maxOps = []int{sm.DefaultMaxOps, 1, 2, 5}[rnd.IntN(4)]
	if rnd.IntN(4) == 0 {
		s.destroys = 1 << rnd.IntN(5)
	}
	if rnd.IntN(4) == 0 {
		s.closes = 1 << rnd.IntN(5)
	}
	s.handsOn = rnd.IntN(3) == 0
	s.checked = rnd.IntN(64) == 0 // each call asks which goroutine it is on, which takes long
	l, err := NewLoop(WithReport(s.report), WithBudget(s.maxOps, 0), func(c *loopConfig) {
		c.kernel, c.clock = s.k, s.k.Clock
		if s.checked {
			WithChecks()(c)
		}
	})
	if err != nil {
		panic(err) // the simulated poller cannot fail
	}
	if rnd.IntN(4) == 0 {
		l.latches = false // as on kqueue
	}
	s.Loop = l
	s.populate(clients, proxied)
}

// populate starts servers and clients.
func (s *sim) populate(clients int, proxied bool) {
	if s.messages {
		s.calls(clients)
		return
	}
	rnd := s.rnd
	s.echoAt = s.serve("echo server", func(c *TCPConn) sm.Frame { return newSimEcho(s, c) })
	at := s.echoAt
	if proxied {
		s.proxyAt = s.serve("proxy", func(c *TCPConn) sm.Frame { return &simProxy{s: s, near: c} })
		at = s.proxyAt
	}
	if rnd.IntN(2) == 0 {
		s.sinkAt = s.serve("sink", func(c *TCPConn) sm.Frame { return newSimSink(s, c) })
	}
	for i := range clients {
		to := at
		switch rnd.IntN(3) {
		case 0:
			to = s.echoAt
		case 1:
			if s.sinkAt.IsValid() {
				to = s.sinkAt
			}
		}
		s.client("client", newSimClient(s, i+1, to))
	}
	if rnd.IntN(3) == 0 {
		s.datagrams()
	}
	if rnd.IntN(3) == 0 {
		s.client("job", &simJob{s: s, rounds: 1 + rnd.IntN(4)})
	}
	if rnd.IntN(3) == 0 {
		s.client("joiner", &simJoiner{s: s, rounds: 1 + rnd.IntN(4)})
	}
	s.client("metronome", &simMetronome{s: s, beats: rnd.IntN(50)})
	for range rnd.IntN(4) {
		s.client("sleeper", &simSleeper{s: s, naps: 1 + rnd.IntN(5)})
	}
	rnd.Shuffle(len(s.clients), func(i, j int) { s.clients[i], s.clients[j] = s.clients[j], s.clients[i] })
}

// add registers a watched task with the run.
func (s *sim) add(w *simWatch) *simWatch {
	s.watches = append(s.watches, w)
	return w
}

func (s *sim) client(name string, frame sm.Frame) *simWatch {
	w := s.add(s.spawn(name, frame))
	s.clients = append(s.clients, w)
	return w
}

// simStubborn tries until what lacks descriptors or memory has them.
func simStubborn[T any](open func() (T, error)) T {
	for {
		if v, err := open(); err == nil {
			return v
		}
	}
}

var simHost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// serve starts a server, in one of the ways in which one may accept.
func (s *sim) serve(name string, handle func(*TCPConn) sm.Frame) netip.AddrPort {
	options := ListenOptions{Backlog: 1 + s.rnd.IntN(8)}
	ln := simStubborn(func() (*TCPListener, error) {
		return ListenTCP(s.Loop, netip.AddrPortFrom(simHost, 0), options)
	})
	session := func(c *TCPConn) sm.Frame { return s.add(s.watch(name+"'s session", handle(s.opened(c)))) }
	var frame sm.Frame
	switch s.rnd.IntN(3) {
	case 0:
		frame = NewServe(ln, session)
	case 1:
		frame = &simAcceptor{s: s, ln: ln, session: session, edge: true, strict: s.rnd.IntN(2) == 0}
	default:
		frame = &simAcceptor{s: s, ln: ln, session: session, strict: s.rnd.IntN(2) == 0}
	}
	w := s.add(s.spawn(name, frame))
	w.server = true
	s.servers, s.accepts = append(s.servers, w.task), append(s.accepts, w)
	return ln.Addr()
}

// datagrams starts a UDP echo, served by several tasks, and its clients.
func (s *sim) datagrams() {
	conn := simStubborn(func() (*UDPConn, error) {
		return ListenUDP(s.Loop, netip.AddrPortFrom(simHost, 0), ListenUDPOptions{})
	})
	s.udpAt = conn.LocalAddr()
	edge := s.rnd.IntN(2) == 0
	for range 1 + s.rnd.IntN(3) {
		w := s.add(s.spawn("datagram server", &simDatagramServer{s: s, conn: conn, edge: edge}))
		w.server, w.batches = true, true
		s.servers = append(s.servers, w.task)
	}
	for i := range 1 + s.rnd.IntN(3) {
		s.client("datagram client", &simDatagramClient{s: s, id: byte(i + 1), left: 1 + s.rnd.IntN(5)})
	}
}

// simByte is the byte of a stream at an offset. The first one names the stream.
func simByte(stream, offset int) byte {
	if offset == 0 {
		return byte(stream)
	}
	return byte((uint32(offset)*2654435761 + uint32(stream)*40503) >> 13)
}

// simBytes is n bytes of a stream from an offset on.
func simBytes(p []byte, stream, offset int) []byte {
	for i := range p {
		p[i] = simByte(stream, offset+i)
	}
	return p
}

// simSize is a length, short ones being as likely as long ones.
func simSize(rnd *rand.Rand, most int) int { return 1 + rnd.IntN(1+rnd.IntN(most)) }

package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// session stands for
//
//	Socket server = co_await connect(backend);
//	co_await all(way(server, client), way(client, server));
//
// It ends when both directions have, or when one has failed. A failure, such as
// a reset, reaches both ends as a reset: an end of input would tell the other
// one that it has got everything. What was not delivered by then is lost, as it
// is when a connection without a proxy is reset.
//
// When the server shuts down, who waits for an answer gets it: see Idle.
type session struct {
	client  *stepio.TCPConn
	to      *backend
	connect *connect // nil once connected
	server  *stepio.TCPConn
	up      way // from the client to the server
	down    way // and back
	ways    sm.All
	heard   time.Time // when bytes last came from either end, or when both were connected
	asked   bool      // they were the client's
	state   sessionState
}

type sessionState uint8

const (
	sessionConnecting sessionState = iota // the client waits for the backend
	sessionPassing                        // both directions at once
)

func (s sessionState) String() string {
	return [...]string{"sessionConnecting", "sessionPassing"}[s]
}

func newSession(client *stepio.TCPConn, to *backend) *session {
	return &session{client: client, to: to, connect: &connect{to: to, loop: client.Loop(), from: client.RemoteAddr()}}
}

func (s *session) Step(t *sm.Task) sm.Await {
	for {
		switch s.state {
		case sessionConnecting:
			if a := s.connect.Step(t); a.Pending() {
				return a
			}
			server, err := s.connect.Result()
			if err != nil {
				s.to.logf("client %s: backend %s: %v", s.connect.client(), s.to.addr, err)
				return sm.Done // Close, below, releases the client
			}
			s.connect, s.server = nil, server
			keepAlive(s.client)
			keepAlive(s.server)
			s.up.start(s, s.server, s.client, &s.down)
			s.down.start(s, s.client, s.server, &s.up)
			s.heard = t.Now()
			s.ways.Start(&s.up, &s.down)
			s.state = sessionPassing
		case sessionPassing:
			if a := s.ways.Step(t); a.Pending() {
				if t.Draining() {
					return a.Until(s.nextLook(t.Now())) // after each step it is asked whether it is idle
				}
				return a
			}
			if s.ways.Err() != nil {
				abort(s.client)
				abort(s.server)
			}
			return sm.Done
		default:
			panic(fmt.Sprintf("session.Step: state %d", s.state))
		}
	}
}

// Idle is true while nobody seems to wait for anything: see sm.Idler. What the two
// ends say to each other is theirs, so this is a guess: that the server has had
// the last word, or nobody has said one, and that it was some time ago, in case
// the rest of an answer or another question is on its way. Who has asked and got
// no answer is not idle, nor is a session that one end has ended its part of. They
// go on until they end, or until the deadline.
func (s *session) Idle() bool {
	return s.state == sessionPassing && !s.asked &&
		s.up.state == wayCopying && s.down.state == wayCopying &&
		s.up.copy.Pending() == 0 && s.down.copy.Pending() == 0 &&
		!s.client.Loop().Now().Before(s.heard.Add(s.to.quiet))
}

// nextLook is when the session may have become idle, at the earliest.
func (s *session) nextLook(now time.Time) time.Time {
	if when := s.heard.Add(s.to.quiet); when.After(now) {
		return when
	}
	return now.Add(s.to.quiet)
}

// Close releases the two connections, and what it takes to get the second. The
// two ways are tasks of their own, which end with this one.
func (s *session) Close() error {
	err := s.client.Close()
	if s.connect != nil {
		err = errors.Join(err, s.connect.Close())
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Close())
	}
	return err
}

// keepAlive finds out some day that a silent peer has vanished, which neither
// way would. A connection that is gone already refuses, and is read next.
func keepAlive(conn *stepio.TCPConn) {
	_ = conn.SetKeepAlive(true)
	_ = conn.SetKeepAlivePeriod(time.Minute)
}

// abort turns the close that follows into a reset. The connection that has
// failed may refuse, which is no loss.
func abort(conn *stepio.TCPConn) { _ = conn.SetLinger(0) }

// way is one direction. It stands for
//
//	while ((n = co_await src.read(buf))) co_await dst.write(buf, n);
//	dst.shutdown(SHUT_WR);
//	co_await other;
//
// Copy does not read from src while dst takes nothing, so it is the kernel's
// buffers and at most sm.ScratchSize bytes that a slow end fills. But a way that
// does not read does not see a reset either: so it looks for one from time to
// time while dst takes nothing, and after the end of input until the other way
// has ended as well.
type way struct {
	session  *session
	copy     stepio.Copy
	heard    int64 // how many bytes src had sent when it was last looked at
	dst, src *stepio.TCPConn
	other    *way
	task     *sm.Task
	look     time.Time // when to look next
	err      error
	state    wayState
}

type wayState uint8

const (
	wayCopying wayState = iota // src has more to send
	wayEnded                   // dst has got it all
)

func (s wayState) String() string { return [...]string{"wayCopying", "wayEnded"}[s] }

// lookEvery is how long a reset may stay unseen.
const lookEvery = 500 * time.Millisecond

func (w *way) start(s *session, dst, src *stepio.TCPConn, other *way) {
	*w = way{session: s, dst: dst, src: src, other: other}
	w.copy.Start(dst, src)
}

func (w *way) Step(t *sm.Task) sm.Await {
	for {
		switch w.state {
		case wayCopying:
			a := w.copy.Step(t)
			if n, _ := w.copy.Result(); n > w.heard {
				w.heard = n
				w.session.heard, w.session.asked = t.Now(), w.src == w.session.client
			}
			if a.Pending() {
				if a.Dir() == sm.Write {
					return w.watch(t, a)
				}
				return a
			}
			if w.err = w.copy.Err(); w.err != nil {
				return sm.Done
			}
			if w.err = w.dst.CloseWrite(); w.err != nil {
				return sm.Done
			}
			w.task = t
			w.state = wayEnded
			if w.other.task != nil {
				w.other.task.Waker().Wake()
			}
		case wayEnded:
			if w.other.state == wayEnded {
				return sm.Done
			}
			return w.watch(t, sm.Park)
		default:
			panic(fmt.Sprintf("way.Step: state %d", w.state))
		}
	}
}

// watch is a, interrupted to look whether src was reset, or Done when it was.
func (w *way) watch(t *sm.Task, a sm.Await) sm.Await {
	if now := t.Now(); !now.Before(w.look) {
		if w.err = failure(w.src); w.err != nil {
			return sm.Done
		}
		w.look = now.Add(lookEvery)
	}
	return a.Until(w.look)
}

// failure is what the next read of conn would fail with (socket(7), SO_ERROR).
func failure(conn *stepio.TCPConn) error {
	errno, err := syscall.GetsockoptInt(conn.FD(), syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	return os.NewSyscallError("getsockopt", err)
}

// Err is what the session ends with, nil when both directions came to an end.
func (w *way) Err() error { return w.err }

// Close drops what dst has not taken.
func (w *way) Close() error { return w.copy.Close() }

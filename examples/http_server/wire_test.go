package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/seam"
	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/sm"
)

// wire is a kernel with one listener, to which clients connect one after the
// other, each with a script: the pieces in which its bytes arrive. A piece arrives
// when the loop has nothing left to do, so the frame sees exactly these cuts; after
// the last one the client finishes sending. Time stands still.
type wire struct {
	t       testing.TB
	loop    *stepio.Loop
	scripts []script
	done    []outcome
	queued  bool // a client is in the accept queue
	open    bool // it has been accepted
	unread  []byte
	pieces  []string // that have not arrived
	ended   bool     // nor will anything more
	full    bool     // the last write found no room
	watched [2]watch // the poller's: of the listener, of the connection
	woken   bool
}

// script is what a client does.
type script struct {
	pieces []string
	room   int // how many bytes a write takes before it finds none; 0: all
}

// outcome is what came of a script.
type outcome struct {
	out    string   // that the server has sent, without its dates and its 100 Continue
	seen   []string // the requests that were answered
	waited bool     // the server had not finished when everything had arrived
	shut   bool     // it has finished sending before it closed
	reset  bool     // it closed with input left: a real kernel resets the connection
}

type watch struct {
	key  uint64
	dirs sm.Dir
}

// The wire's descriptors.
const (
	wireListener = 3 + iota
	wireConn
)

// play has the server answer every script, on a loop of its own.
func play(t testing.TB, scripts ...script) []outcome {
	w := &wire{t: t, scripts: scripts, queued: true}
	w.begin()
	option := seam.Option(w, func() time.Duration { return time.Hour })
	loop, err := stepio.NewLoop(option.(stepio.LoopOption), stepio.WithReport(func(task *sm.Task, err error) {
		t.Errorf("not expected: report of %v from %s", err, task.Chain())
	}))
	require.NoError(t, err)
	w.loop = loop
	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:80"), stepio.ListenOptions{})
	require.NoError(t, err)
	server := newServer(nil, quick)
	server.route = func(req *http.Request) *answer {
		o := &w.done[len(w.done)-1]
		o.seen = append(o.seen, sight(req))
		return answerSeen(req)
	}
	loop.Spawn(newServe(ln, server))
	require.NoError(t, loop.Run())
	require.Equal(t, 1, loop.Tasks(), "the listener's is left")
	require.NoError(t, loop.Close())
	for i := range w.done {
		o := &w.done[i]
		o.out = strings.ReplaceAll(undated(o.out), goOn, "")
	}
	return w.done
}

// goOn tells a client that waits to go on. Whether it does is a matter of time.
const goOn = "HTTP/1.1 100 Continue\r\n\r\n"

// sight is a request, as those compare it who look for where requests begin and
// end: method, target, and the length of the body, -1 when it comes in chunks.
func sight(req *http.Request) string {
	return fmt.Sprintf("%s %s %d", req.Method, req.RequestURI, req.ContentLength)
}

// answerSeen answers what the server has seen.
func answerSeen(req *http.Request) *answer {
	return newAnswer(http.StatusOK, "Seen: "+sight(req)+"\r\n", nil)
}

// begin prepares the next client.
func (w *wire) begin() {
	s := w.scripts[len(w.done)]
	w.pieces, w.unread, w.ended, w.full = s.pieces, nil, false, false
	w.done = append(w.done, outcome{})
	w.queued = true
}

// PollWait reports what is ready. When nothing is and the loop would block, the
// next thing happens: a piece, the end, the next client, or the end of the test.
func (w *wire) PollWait(_ int, timeout time.Duration, report func(key uint64, ready uint8)) error {
	for {
		if w.report(report) || timeout == 0 || w.woken {
			w.woken = false
			return nil
		}
		switch o := &w.done[len(w.done)-1]; {
		case w.full:
			w.full = false
		case w.queued || !w.open && len(w.pieces) == 0 && !w.ended:
			w.t.Fatal("the server does not accept")
		case !w.open && len(w.done) < len(w.scripts):
			w.begin()
		case !w.open:
			w.loop.Stop()
		case len(w.pieces) > 0:
			w.unread = append(w.unread, w.pieces[0]...)
			w.pieces = w.pieces[1:]
		case !w.ended:
			o.waited = !o.shut
			w.ended = true
		default:
			w.t.Fatalf("the server waits for ever, having sent %q", o.out)
		}
	}
}

func (w *wire) report(report func(key uint64, ready uint8)) (any bool) {
	if l := w.watched[0]; w.queued && l.dirs&sm.Read != 0 {
		report(l.key, simkernel.Readable)
		any = true
	}
	var ready uint8
	if c := w.watched[1]; w.open && c.dirs != 0 {
		if c.dirs&sm.Read != 0 && len(w.unread) > 0 {
			ready |= simkernel.Readable
		}
		if c.dirs&sm.Read != 0 && w.ended {
			ready |= simkernel.Readable | simkernel.Ended
		}
		if c.dirs&sm.Write != 0 && !w.full {
			ready |= simkernel.Writable
		}
		if ready != 0 {
			report(c.key, ready)
			any = true
		}
	}
	return any
}

func (w *wire) Accept(int) (int, syscall.Errno) {
	if !w.queued {
		return -1, syscall.EAGAIN
	}
	w.queued, w.open = false, true
	return wireConn, 0
}

func (w *wire) Read(_, room int) ([]byte, syscall.Errno) {
	n := min(room, len(w.unread))
	switch {
	case n > 0:
		data := w.unread[:n:n]
		w.unread = w.unread[n:]
		return data, 0
	case w.ended:
		return nil, 0
	}
	return nil, syscall.EAGAIN
}

// Write takes as much as the script has room for, and then nothing once.
func (w *wire) Write(_ int, data []byte) (int, syscall.Errno) {
	if w.full {
		return 0, syscall.EAGAIN
	}
	if room := w.scripts[len(w.done)-1].room; room > 0 && len(data) > room {
		data = data[:room]
		w.full = true
	}
	w.done[len(w.done)-1].out += string(data)
	return len(data), 0
}

func (w *wire) Shutdown(_, how int) syscall.Errno {
	if how == syscall.SHUT_WR {
		w.done[len(w.done)-1].shut = true
	}
	return 0
}

func (w *wire) Close(fd int) syscall.Errno {
	if fd == wireConn {
		o := &w.done[len(w.done)-1]
		o.reset = len(w.unread) > 0
		w.open, w.watched[1] = false, watch{}
		w.ended, w.pieces = true, nil
	}
	return 0
}

func (w *wire) PollAdd(fd int, key uint64, dirs sm.Dir, edge bool) error {
	return w.PollModify(fd, key, dirs, edge)
}

func (w *wire) PollModify(fd int, key uint64, dirs sm.Dir, _ bool) error {
	w.watched[fd-wireListener] = watch{key, dirs}
	return nil
}

func (w *wire) PollRemove(fd int) error { return w.PollModify(fd, 0, 0, false) }

func (w *wire) PollWake() error {
	w.woken = true
	return nil
}

func (w *wire) PollClose() error { return nil }

func (w *wire) Socket(int, int) (int, syscall.Errno)             { return wireListener, 0 }
func (w *wire) Bind(int, netip.AddrPort) syscall.Errno           { return 0 }
func (w *wire) Listen(int, int) syscall.Errno                    { return 0 }
func (w *wire) SetSocketOption(int, int, int, int) syscall.Errno { return 0 }

func (w *wire) LocalAddr(int) (netip.AddrPort, syscall.Errno) {
	return netip.MustParseAddrPort("127.0.0.1:80"), 0
}

// The rest no server calls.

func (w *wire) Connect(int, netip.AddrPort) syscall.Errno { return syscall.ENOSYS }

func (w *wire) SocketOption(int, int, int) (int, syscall.Errno) { return 0, syscall.ENOSYS }

func (w *wire) RemoteAddr(int) (netip.AddrPort, syscall.Errno) {
	return netip.AddrPort{}, syscall.ENOSYS
}

func (w *wire) ReceiveFrom(int, int) ([]byte, netip.AddrPort, bool, syscall.Errno) {
	return nil, netip.AddrPort{}, false, syscall.ENOSYS
}

func (w *wire) SendTo(int, []byte, netip.AddrPort) syscall.Errno { return syscall.ENOSYS }

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The traffic: clients of package net, which know every byte that they are to
// get. Each kind of traffic has workers; a worker has one connection at a time,
// or one socket, and asks at its own pace, whatever the others do.

// kind is a kind of traffic, and what was counted of it.
type kind struct {
	name    string
	share   float64 // of the requests a second that the flag -rate asks for
	workers int
	every   time.Duration // from one request of a worker to the next
	session func(*worker) error
	timed   bool // its p99 is judged
	times   histogram

	asked, answered atomic.Int64 // requests
	opened          atomic.Int64 // connections
	finished        atomic.Int64 // ended by FIN, everything was read
	reset           atomic.Int64 // reset by the client, on purpose
	cut             atomic.Int64 // ended by a restart of the servers
	lost            atomic.Int64 // datagrams that a restart has swallowed
}

// traffic is all of it.
type traffic struct {
	seed    uint64
	addrs   addresses
	control netip.AddrPort
	kinds   []*kind
	ctx     context.Context // ends with the traffic
	cancel  context.CancelFunc
	running sync.WaitGroup

	// epoch is odd while a restart of the servers is under way. So a connection
	// that was made at another epoch than the present one, or at an odd one, may be
	// ended by the servers.
	epoch atomic.Int64
	stall atomic.Int64 // when the control has answered after more than a second, last

	failures failures
}

// clientPatience is how long a client waits for anything that has to come. Busy
// machines were seen to stand still for eight seconds.
const clientPatience = time.Minute

// stalled reports whether the control took longer than a second to answer, not
// more than a minute ago; or does so in the next seconds.
func (t *traffic) stalled() bool {
	for range 30 {
		if last := t.stall.Load(); last != 0 && clock()-time.Duration(last) < time.Minute {
			return true
		}
		<-time.After(100 * time.Millisecond)
	}
	return false
}

// start lets the clients loose.
func (t *traffic) start() {
	number := uint64(0)
	for _, k := range t.kinds {
		for i := range k.workers {
			number++
			w := &worker{kind: k, traffic: t, rnd: rand.New(rand.NewPCG(t.seed, number))}
			w.due = time.Now().Add(time.Duration(float64(k.every) * float64(i) / float64(k.workers)))
			t.running.Go(w.run)
		}
	}
}

// stop ends the traffic in good order: what was asked is answered first.
func (t *traffic) stop() {
	t.cancel()
	t.running.Wait()
}

// worker is one client.
type worker struct {
	*kind
	traffic *traffic
	rnd     *rand.Rand
	due     time.Time // of the next request
}

func (w *worker) run() {
	for w.traffic.ctx.Err() == nil {
		if err := w.session(w); err != nil {
			w.traffic.failures.add("%s: %v", w.name, err)
			// The next attempt may well fail, too: not at once.
			w.wait(time.Now().Add(100 * time.Millisecond))
		}
	}
}

// wait waits until then, and reports whether traffic goes on.
func (w *worker) wait(until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.traffic.ctx.Done():
		return false
	}
}

// pace waits until the next request is due, and reports whether traffic goes on.
func (w *worker) pace() bool { return w.wait(w.next()) }

// next is when the next request is due. A worker that is late does not hurry
// afterwards: the machine may have stood still.
func (w *worker) next() time.Time {
	due := w.due
	w.due = due.Add(w.every/2 + time.Duration(w.rnd.Int64N(int64(w.every))))
	if now := time.Now(); w.due.Before(now) {
		w.due = now
	}
	return due
}

// chance is true once in so many times.
func (w *worker) chance(in int) bool { return w.rnd.IntN(in) == 0 }

// link is a worker's connection.
type link struct {
	*net.TCPConn
	w     *worker
	epoch int64
	key   stream // of what this end says
	said  int64
	heard int64
	out   []byte // for say
	in    []byte // for hear
}

var sources atomic.Uint32 // takes turns, since a closed connection keeps its port for a minute

// dial connects. The error is nil along with a nil link when a restart has
// ended the attempt.
func (w *worker) dial(addr netip.AddrPort, control func(string, string, syscall.RawConn) error) (*link, error) {
	l := &link{w: w, epoch: w.traffic.epoch.Load(), key: stream(w.rnd.Uint64())}
	d := net.Dialer{
		Timeout:   clientPatience,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+sources.Add(1)%64))},
		Control:   control,
	}
	conn, err := d.Dial("tcp", addr.String())
	if err != nil {
		return nil, l.excuse(fmt.Errorf("connect: %w", err))
	}
	w.opened.Add(1)
	l.TCPConn = conn.(*net.TCPConn)
	return l, l.SetDeadline(time.Now().Add(clientPatience))
}

// excuse is nil for an error that a restart of the servers explains.
func (l *link) excuse(err error) error {
	if err == nil {
		return nil
	}
	gone := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ENOTCONN)
	if gone && (l.epoch%2 == 1 || l.epoch != l.w.traffic.epoch.Load()) {
		l.w.cut.Add(1)
		return nil
	}
	return fmt.Errorf("stream %016x, %d bytes sent, %d got: %w", uint64(l.key), l.said, l.heard, err)
}

// say sends the next n bytes of the link's stream.
func (l *link) say(n int) error {
	p := room(&l.out, n)
	l.key.fill(p, l.said)
	if err := l.SetWriteDeadline(time.Now().Add(clientPatience)); err != nil {
		return err
	}
	m, err := l.Write(p)
	l.said += int64(m)
	return err
}

// hear reads n bytes and checks that they are those that stand next in a
// stream.
func (l *link) hear(key stream, n int) error {
	if err := l.SetReadDeadline(time.Now().Add(clientPatience)); err != nil {
		return err
	}
	p := room(&l.in, min(n, 64<<10))
	for n > 0 {
		m, err := l.Read(p[:min(n, len(p))])
		if err := key.check(p[:m], l.heard); err != nil {
			return err
		}
		l.heard += int64(m)
		if n -= m; n > 0 && err != nil {
			return err
		}
	}
	return nil
}

func room(buf *[]byte, n int) []byte {
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

// exchange sends the next n bytes and has them back. It needs two goroutines
// where neither end's buffers may hold them.
func (l *link) exchange(n int) error {
	epoch, begun := l.w.traffic.epoch.Load(), time.Now()
	l.w.asked.Add(1)
	if n <= 8<<10 {
		if err := l.say(n); err != nil {
			return err
		}
		if err := l.hear(l.key, n); err != nil {
			return err
		}
	} else {
		said := make(chan error, 1)
		go func() { said <- l.say(n) }()
		err := l.hear(l.key, n)
		if err != nil {
			_ = l.SetLinger(0) // both fail only when it is gone already
			_ = l.CloseRead()
			_ = l.SetWriteDeadline(time.Now())
		}
		if err := errors.Join(err, <-said); err != nil {
			return err
		}
	}
	l.w.answeredIn(time.Since(begun))
	l.proven(epoch)
	return nil
}

// proven says that something that was asked at an epoch was answered. When no
// restart was under way then, it is the present servers that have answered.
func (l *link) proven(epoch int64) {
	if epoch%2 == 0 {
		l.epoch = epoch
	}
}

// finish ends the output and expects that the server ends its own then, without
// a byte more.
func (l *link) finish() error {
	if err := l.CloseWrite(); err != nil {
		return errors.Join(l.excuse(err), l.Close())
	}
	if err := l.SetReadDeadline(time.Now().Add(clientPatience)); err != nil {
		return errors.Join(err, l.Close())
	}
	var one [1]byte
	n, err := l.Read(one[:])
	switch {
	case n > 0:
		err = fmt.Errorf("a byte more than was sent: %#02x", one[0])
	case err == io.EOF:
		err = nil
		l.w.finished.Add(1)
	}
	return errors.Join(l.excuse(err), l.Close())
}

// abort resets the connection.
func (l *link) abort() error {
	l.w.reset.Add(1)
	return errors.Join(l.SetLinger(0), l.Close())
}

// end is what a session returns that has failed, or was cut.
func (l *link) end(err error) error { return errors.Join(l.excuse(err), l.Close()) }

// answeredIn counts an answer that took so long.
func (w *worker) answeredIn(d time.Duration) {
	w.answered.Add(1)
	w.times.add(d)
	if w.name == controlName && d > time.Second {
		w.traffic.stall.Store(int64(clock()))
	}
}

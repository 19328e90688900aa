package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/internal/arrival"
	"github.com/stepio-go/stepio/internal/testseed"
)

// Polite clients, who are not to notice what others do: some on connections that
// stay, and one that connects anew each time.
//
// Those that stay are one thread, which asks in turn, evenly spread, and takes the
// time right before it writes. With a goroutine each they came to ask all at once
// whenever their processor had been busy, and one wait of the server's was then
// the wait of all of them.
//
// Evenly spread is a part of the pace for each, and in that part a random instant.
// The kernel does some of its work in step with its clock, whose ticks are as far
// apart as the turns of one client: at HZ=250 it probes the closed windows of slow readers
// (RFC 9293, 3.8.6.1) all together, each 32 ms, for 150 µs. Of clients in step with that,
// every 64th request meets it in one window and none in another, where one of 200 should.

const (
	politeClients = 8
	politePace    = 4 * time.Millisecond // between two requests of one
	politeAnew    = 20 * time.Millisecond
)

// window is what polite clients have seen in some time. A request's time runs from
// its first byte to when the kernel has the answer's last, connecting included
// where it is done: the clients share a processor with the slow ones, and what they
// wait for there is not the server's.
type window struct {
	kept     []time.Duration // of requests on connections that stay
	anew     []time.Duration // of connections with one request each
	failures []error
}

// p99 is the time that one of a hundred takes longer than.
func p99(list []time.Duration) time.Duration { return quantile(list, 0.99) }

// quantile is the time that the part q of list does not take longer than. It sorts
// list.
func quantile(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[int(q*float64(len(list)))]
}

// polite has clients ask for a while, at instants that rnd decides.
func polite(ctx context.Context, rnd *rand.Rand, addr string, during time.Duration) *window {
	w := new(window)
	ctx, cancel := context.WithTimeout(ctx, during)
	defer cancel()
	var both sync.WaitGroup
	var stayed, came error
	both.Go(func() { stayed = w.stay(ctx, rnd, addr) })
	both.Go(func() { came = w.comeAnew(ctx, addr) })
	both.Wait()
	for _, err := range []error{stayed, came} {
		if err != nil {
			w.failures = append(w.failures, err)
		}
	}
	return w
}

// regular is a connection that stays.
type regular struct {
	fd     int
	rnd    *rand.Rand
	part   time.Time // when its part of the pace begins
	due    time.Time // its next turn, in that part
	began  time.Time // its request under way; zero: none
	late   time.Time // the first turn that found one under way; zero: none did
	answer []byte
}

func newRegular(addr string, rnd *rand.Rand, part time.Time) (*regular, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // what is used is a duplicate
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // so is this
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	r := &regular{fd: fd, rnd: rnd}
	r.take(part)
	if err := errors.Join(unix.SetNonblock(fd, true), arrival.Note(fd)); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

// take has the next turn in the part that begins then.
func (r *regular) take(part time.Time) {
	r.part, r.due = part, part.Add(time.Duration(r.rnd.Int64N(int64(politePace/politeClients))))
}

func (r *regular) close() error { return os.NewSyscallError("close", unix.Close(r.fd)) }

// ask sends a request, whose time runs since then or since now, if then is zero.
func (r *regular) ask(then time.Time) error {
	if r.began = then; then.IsZero() {
		r.began = time.Now().Round(0)
	}
	r.late, r.answer = time.Time{}, r.answer[:0]
	n, err := unix.Write(r.fd, []byte(get))
	if err != nil || n != len(get) {
		return fmt.Errorf("%d bytes written: %w", n, err)
	}
	return nil
}

// receive takes what has come. Once all of an answer is here, it answers how long the
// request took.
func (r *regular) receive(buf, oob []byte) (took time.Duration, complete bool, err error) {
	n, at, err := arrival.Receive(r.fd, buf, oob)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return 0, false, nil
	case err != nil || n == 0:
		return 0, false, fmt.Errorf("%d bytes read: %w", n, err)
	case r.began.IsZero():
		return 0, false, fmt.Errorf("an answer to nothing: %q", buf[:n])
	}
	r.answer = append(r.answer, buf[:n]...)
	err = check(bufio.NewReader(bytes.NewReader(r.answer)))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	took = at.Sub(r.began)
	r.began = time.Time{}
	return took, true, nil
}

// next asks anew where a turn has passed before the answer arrived, as from that
// turn; and from now where it has passed before this thread looked.
func (r *regular) next(arrived time.Time) error {
	switch {
	case r.late.IsZero():
		return nil
	case r.late.After(arrived):
		return r.ask(time.Time{})
	}
	return r.ask(r.late)
}

// stay asks on connections that stay until the context ends, and waits for what is
// under way. A request that could not be sent in its turn, since the answer before
// it was not there, is late from its turn on: a server that stalls does not get
// fewer for it.
func (w *window) stay(ctx context.Context, rnd *rand.Rand, addr string) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A timeout may be 50 µs late by default (prctl(2), PR_SET_TIMERSLACK).
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	begin := time.Now().Round(0)
	var all []*regular
	defer func() {
		for _, r := range all {
			err = errors.Join(err, r.close())
		}
	}()
	var polled []unix.PollFd
	for i := range politeClients {
		r, err := newRegular(addr, rnd, begin.Add(time.Duration(i)*politePace/politeClients))
		if err != nil {
			return err
		}
		all = append(all, r)
		polled = append(polled, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	buf, oob := make([]byte, 4<<10), make([]byte, arrival.Room)
	for gaveUp := (time.Time{}); ; {
		now := time.Now().Round(0)
		over, waiting, next := ctx.Err() != nil, 0, now.Add(politePace)
		for _, r := range all {
			if turn := r.due; !over && !turn.After(now) {
				for !r.due.After(now) { // this thread may be late by more than one turn
					r.take(r.part.Add(politePace))
				}
				switch {
				case r.began.IsZero():
					if err := r.ask(time.Time{}); err != nil {
						return err
					}
				case r.late.IsZero():
					r.late = turn
				}
			}
			if !r.began.IsZero() {
				waiting++
			}
			if r.due.Before(next) {
				next = r.due
			}
		}
		if over && waiting == 0 {
			return nil
		}
		if over && gaveUp.IsZero() {
			gaveUp = now.Add(patience)
		}
		if over && now.After(gaveUp) {
			return fmt.Errorf("%d requests without an answer", waiting)
		}
		timeout := unix.NsecToTimespec(int64(max(next.Sub(now), 0)))
		if over {
			timeout = unix.NsecToTimespec(int64(politePace))
		}
		if _, err := unix.Ppoll(polled, &timeout, nil); err != nil && err != unix.EINTR {
			return os.NewSyscallError("ppoll", err)
		}
		for i, r := range all {
			if polled[i].Revents == 0 {
				continue
			}
			polled[i].Revents = 0
			began := r.began
			took, complete, err := r.receive(buf, oob)
			if err != nil {
				return err
			}
			if !complete {
				continue
			}
			w.kept = append(w.kept, took)
			if err := r.next(began.Add(took)); err != nil {
				return err
			}
		}
	}
}

// comeAnew connects for each request, until the context ends.
func (w *window) comeAnew(ctx context.Context, addr string) error {
	tick := time.NewTicker(politeAnew)
	defer tick.Stop()
	for {
		took, err := askAnew(addr)
		if err != nil {
			return err
		}
		w.anew = append(w.anew, took)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// askAnew makes one request on a connection of its own.
func askAnew(addr string) (took time.Duration, err error) {
	began := time.Now().Round(0)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil { // leaves no TIME_WAIT
		return 0, err
	}
	in, err := newArrivals(conn)
	if err != nil {
		return 0, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(conn, get); err != nil {
		return 0, err
	}
	err = check(bufio.NewReader(in))
	return in.last.Sub(began), err
}

// check reads one answer, which is to be the right one. What ends too early is
// io.ErrUnexpectedEOF.
func check(r *bufio.Reader) error {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != hello) {
		err = fmt.Errorf("answer %d, %q", resp.StatusCode, body)
	}
	return err
}

// arrivals reads a connection, and knows when the last of it arrived.
type arrivals struct {
	raw  syscall.RawConn
	oob  [arrival.Room]byte
	last time.Time
}

func newArrivals(conn net.Conn) (*arrivals, error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = arrival.Note(int(fd)) })
	return &arrivals{raw: raw}, errors.Join(err, failed)
}

func (a *arrivals) Read(p []byte) (n int, err error) {
	waited := a.raw.Read(func(fd uintptr) bool {
		n, a.last, err = arrival.Receive(int(fd), p, a.oob[:])
		return !errors.Is(err, syscall.EAGAIN)
	})
	switch {
	case waited != nil:
		return 0, waited
	case n == 0 && err == nil:
		return 0, io.EOF
	}
	return n, err
}

// Wrong answers are failures, and so is one that does not come.
func TestPoliteClientsNoticeWhatIsWrong(t *testing.T) {
	for name, answer := range map[string]string{
		"another body":   "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
		"another status": "HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\n" + hello,
		"half an answer": "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nHello",
		"none":           "",
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var serving sync.WaitGroup
			serving.Go(func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					serving.Go(func() {
						defer func() { _ = conn.Close() }() // the client may be gone before
						if _, err := io.ReadFull(conn, make([]byte, len(get))); err == nil {
							_, _ = io.WriteString(conn, answer)
						}
					})
				}
			})
			w := polite(t.Context(), testseed.Rand(t), ln.Addr().String(), 20*time.Millisecond)
			assert.NotEmpty(t, w.failures)
			assert.Empty(t, w.kept)
			require.NoError(t, ln.Close())
			serving.Wait()
		})
	}
}

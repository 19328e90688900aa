package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"
)

// Clients of the echo servers, of the proxy and of the news.

// where picks the address that a client connects to.
type where func(*traffic) netip.AddrPort

func toEcho(t *traffic) netip.AddrPort     { return t.addrs.Echo }
func toEchoEdge(t *traffic) netip.AddrPort { return t.addrs.EchoEdge }
func toProxy(t *traffic) netip.AddrPort    { return t.addrs.Proxy }
func toControl(t *traffic) netip.AddrPort  { return t.control }

// echoes is a client that keeps its connection for at most so many messages of
// at most so many bytes. Some connections are reset, between two messages or
// within one.
func echoes(to where, messages, size int) func(*worker) error {
	return func(w *worker) error {
		l, err := w.dial(to(w.traffic), nil)
		if l == nil {
			return err
		}
		for range 1 + w.rnd.IntN(messages) {
			if !w.pace() {
				break
			}
			if w.chance(4 * messages) {
				if err := l.say(1 + w.rnd.IntN(size)); err != nil {
					return l.end(err)
				}
				return l.abort()
			}
			if err := l.exchange(1 + w.rnd.IntN(size)); err != nil {
				return l.end(err)
			}
		}
		if w.chance(4) {
			return l.abort()
		}
		return l.finish()
	}
}

// bulk sends messages that no buffer holds, by one of several servers.
func bulk(size int, tos ...where) func(*worker) error {
	return func(w *worker) error {
		return echoes(tos[w.rnd.IntN(len(tos))], 4, size)(w)
	}
}

// visits is a client that connects for one message.
func visits(w *worker) error {
	if !w.pace() {
		return nil
	}
	to := []where{toEcho, toEchoEdge, toProxy}[w.rnd.IntN(3)]
	begun := time.Now()
	l, err := w.dial(to(w.traffic), nil)
	if l == nil {
		return err
	}
	w.asked.Add(1)
	n := 1 + w.rnd.IntN(100)
	if err := l.say(n); err != nil {
		return l.end(err)
	}
	if w.chance(10) {
		return l.abort()
	}
	if err := l.hear(l.key, n); err != nil {
		return l.end(err)
	}
	w.answeredIn(time.Since(begun))
	if w.chance(2) {
		return l.abort()
	}
	return l.finish()
}

// idles is a client that says something now and then only, and notices when the
// server ends its connection meanwhile.
func idles(w *worker) error {
	to := []where{toEcho, toEchoEdge, toProxy}[w.rnd.IntN(3)]
	l, err := w.dial(to(w.traffic), nil)
	if l == nil {
		return err
	}
	for {
		if err := l.silence(w.next()); err != nil {
			return l.end(err)
		}
		if w.traffic.ctx.Err() != nil {
			return l.finish()
		}
		if err := l.exchange(1 + w.rnd.IntN(100)); err != nil {
			return l.end(err)
		}
	}
}

// silence waits until then, or until traffic ends, and expects that nothing
// comes.
func (l *link) silence(until time.Time) error {
	var one [1]byte
	for l.w.traffic.ctx.Err() == nil && time.Now().Before(until) {
		soon := time.Now().Add(time.Second)
		if until.Before(soon) {
			soon = until
		}
		if err := l.SetReadDeadline(soon); err != nil {
			return err
		}
		n, err := l.Read(one[:])
		if n > 0 {
			return fmt.Errorf("a byte that nobody was to send: %#02x", one[0])
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return nil
}

// subscribes is a client that listens to the news for a while: every message,
// in order, and when it was published.
func subscribes(w *worker) error {
	l, err := w.dial(w.traffic.addrs.News, nil)
	if l == nil {
		return err
	}
	defer l.Close() // a second time is no harm
	var msg [newsSize]byte
	for i, want := 1+w.rnd.IntN(1000), uint64(0); i > 0 && w.traffic.ctx.Err() == nil; i-- {
		if err := l.SetReadDeadline(time.Now().Add(clientPatience)); err != nil {
			return err
		}
		if _, err := io.ReadFull(l, msg[:]); err != nil {
			return l.end(err)
		}
		number := binary.LittleEndian.Uint64(msg[:])
		if want != 0 && number != want {
			return l.end(fmt.Errorf("message %d came after %d", number, want-1))
		}
		want = number + 1
		if err := stream(number).check(msg[newsHead:], 0); err != nil {
			return l.end(err)
		}
		w.asked.Add(1)
		w.answeredIn(clock() - time.Duration(binary.LittleEndian.Uint64(msg[8:])))
	}
	if w.chance(2) {
		return l.abort()
	}
	w.finished.Add(1)
	return l.Close()
}

// Close closes the connection, if that was not done before.
func (l *link) Close() error {
	if err := l.TCPConn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

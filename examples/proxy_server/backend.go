package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// backend is the server that connections are passed on to. The loops share it.
type backend struct {
	addr     string                           // host, perhaps a name, and port
	patience time.Duration                    // for resolving and connecting, for each client
	quiet    time.Duration                    // without a word, and a session is idle: see session.Idle
	pool     *stepio.Pool                     // resolves the name; one worker will do
	ctx      context.Context                  // ends when the server does
	logf     func(format string, args ...any) // any goroutine

	mu    sync.Mutex
	known answer
}

// answer is the resolver's, which may be a failure too.
type answer struct {
	addrs []netip.AddrPort
	err   error
	until time.Time
}

// answerLife is how long an answer is used. It is short, so that a backend that
// moves is found again, and spares the resolver a question for every client.
const answerLife = 5 * time.Second

// lookUp is the answer that is known at this time, if any.
func (b *backend) lookUp(now time.Time) (answer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known, now.Before(b.known.until)
}

// resolve asks the resolver, which blocks: it is a job's function. Of those who
// want to know at the same time, one asks; the pool's only worker runs their
// jobs one after the other, and the others find the answer known.
func (b *backend) resolve() ([]netip.AddrPort, error) {
	if known, ok := b.lookUp(time.Now()); ok {
		return known.addrs, known.err
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.patience)
	defer cancel()
	addrs, err := stepio.ResolveAddr(ctx, b.addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known = answer{addrs, err, time.Now().Add(answerLife)}
	return addrs, err
}

// connect stands for
//
//	auto addrs = co_await pool.submit(loop, [&] { return resolve(backend); });
//	std::exception_ptr first;
//	for (auto& addr : addrs) {
//	    try { co_return co_await dial(addr); }
//	    catch (...) { if (!first) first = std::current_exception(); }
//	}
//	std::rethrow_exception(first);
//
// with a deadline over all of it.
type connect struct {
	sm.Returns[*stepio.TCPConn]
	to       *backend
	loop     *stepio.Loop
	from     netip.AddrPort // the client's, asked for early: the kernel forgets it with a reset
	deadline time.Time
	lookup   stepio.Job[[]netip.AddrPort]
	addrs    []netip.AddrPort // not tried yet
	dial     stepio.Dial
	first    error // of an address, as in package net
	state    connectState
}

type connectState uint8

const (
	connectStarting  connectState = iota // nothing is known
	connectResolving                     // the pool asks the resolver
	connectChoosing                      // addrs are the addresses to try
	connectDialing                       // one of them is tried
)

func (s connectState) String() string {
	return [...]string{"connectStarting", "connectResolving", "connectChoosing", "connectDialing"}[s]
}

func (c *connect) Step(t *sm.Task) sm.Await {
	for {
		switch c.state {
		case connectStarting:
			c.deadline = t.Now().Add(c.to.patience)
			if known, ok := c.to.lookUp(t.Now()); ok && known.err == nil {
				c.addrs = known.addrs
				c.state = connectChoosing
				continue
			}
			c.lookup.Start(c.to.pool, c.to.resolve)
			c.state = connectResolving
		case connectResolving:
			if a := c.lookup.Step(t); a.Pending() {
				if !t.Now().Before(c.deadline) {
					return c.Fail(fmt.Errorf("resolving: %w", os.ErrDeadlineExceeded))
				}
				return a.Until(c.deadline)
			}
			addrs, err := c.lookup.Result()
			if err != nil {
				return c.Fail(err)
			}
			c.addrs = addrs
			c.state = connectChoosing
		case connectChoosing:
			if len(c.addrs) == 0 {
				return c.Fail(c.first)
			}
			// Each address gets its share of the time that is left.
			share := c.deadline.Sub(t.Now()) / time.Duration(len(c.addrs))
			c.dial = stepio.DialTCP(c.loop, c.addrs[0], stepio.DialOptions{Deadline: t.Now().Add(share)})
			c.addrs = c.addrs[1:]
			c.state = connectDialing
		case connectDialing:
			if a := c.dial.Step(t); a.Pending() {
				return a
			}
			conn, err := c.dial.Result()
			if err == nil {
				return c.Return(conn)
			}
			if c.first == nil {
				c.first = err
			}
			c.state = connectChoosing
		default:
			panic(fmt.Sprintf("connect.Step: state %d", c.state))
		}
	}
}

// client is how the log names the client.
func (c *connect) client() string {
	if !c.from.IsValid() {
		return "(reset before it was accepted)"
	}
	return c.from.String()
}

// Close ends what is still going on.
func (c *connect) Close() error {
	if err := c.lookup.Close(); err != nil {
		return err
	}
	return c.dial.Close()
}

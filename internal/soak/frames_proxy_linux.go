package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// passing is a connection through the proxy. It stands for
//
//	Socket far = co_await connect(backend);
//	co_await all(way(far, near), way(near, far));
//
// A failure of one side reaches the other as a reset.
type passing struct {
	near  *stepio.TCPConn
	far   *stepio.TCPConn
	dial  stepio.Dial
	up    way
	down  way
	ways  sm.All
	state passingState
}

type passingState uint8

const (
	passingDialing passingState = iota // the backend is not connected yet
	passingCopying                     // both directions at once
)

func (s passingState) String() string { return [...]string{"passingDialing", "passingCopying"}[s] }

func newPassing(near *stepio.TCPConn, backend netip.AddrPort) *passing {
	return &passing{near: near, dial: stepio.DialTCP(near.Loop(), backend, stepio.DialOptions{})}
}

func (p *passing) Step(t *sm.Task) sm.Await {
	for {
		switch p.state {
		case passingDialing:
			if a := p.dial.Step(t); a.Pending() {
				return a
			}
			far, err := p.dial.Result()
			if err != nil {
				return sm.Done // the client is told by the end, which it was not to expect
			}
			p.far = far
			p.up.start(p.far, p.near)
			p.down.start(p.near, p.far)
			p.ways.Start(&p.up, &p.down)
			p.state = passingCopying
		case passingCopying:
			if a := p.ways.Step(t); a.Pending() {
				return a
			}
			if p.ways.Err() != nil {
				// A connection that is gone refuses, and needs no reset.
				_ = p.near.SetLinger(0)
				_ = p.far.SetLinger(0)
			}
			return sm.Done
		default:
			panic(fmt.Sprintf("passing.Step: state %d", p.state))
		}
	}
}

// Idle is true while there is nothing to be passed on: see sm.Idler.
func (p *passing) Idle() bool {
	return p.state == passingCopying && p.up.copy.Pending() == 0 && p.down.copy.Pending() == 0
}

func (p *passing) Close() error {
	return errors.Join(p.ways.Close(), p.dial.Close(), p.near.Close(), p.far.Close())
}

// way is one direction: it copies until the end of input, and passes that on.
type way struct {
	copy stepio.Copy
	dst  *stepio.TCPConn
	err  error
}

func (w *way) start(dst, src *stepio.TCPConn) {
	w.dst = dst
	w.copy.Start(dst, src)
}

func (w *way) Step(t *sm.Task) sm.Await {
	if a := w.copy.Step(t); a.Pending() {
		return a
	}
	if w.err = w.copy.Err(); w.err == nil {
		w.err = w.dst.CloseWrite()
	}
	return sm.Done
}

// Err is what the direction has ended with, nil for the end of input.
func (w *way) Err() error { return w.err }

// Close drops what dst has not taken.
func (w *way) Close() error { return w.copy.Close() }

package stepio

import (
	"errors"
	"net"
	"net/netip"
)

// Expected outcomes are bare sentinels, so that == tells them apart; failures
// are as in package net, so that errors.Is does.
var (
	// ErrWouldBlock says that nothing happened yet, or not all of it: return
	// what the operation's doc names, such as c.Readable(), and try again. It is an
	// error like the others, but the variable is no interface: so err == ErrWouldBlock
	// is a comparison of two words, without a call, and while err is nil one with a
	// constant. A variable for any error is declared as one: var err error = ErrWouldBlock.
	ErrWouldBlock = &sentinel{"stepio: would block"}

	// ErrTriggerMode is the WaitErr of a task that waits on a descriptor in one
	// trigger mode while another task waits on it in the other.
	ErrTriggerMode = errors.New("stepio: descriptor is awaited in the other trigger mode")

	// ErrRemoved is the WaitErr of a task whose descriptor was given to Loop.Remove.
	ErrRemoved = errors.New("stepio: descriptor removed from its loop")

	// ErrLoopClosed answers a Post after Stop, a second Run, and a Shutdown of a
	// loop that was stopped.
	ErrLoopClosed = errors.New("stepio: loop closed")

	// ErrLoopRunning answers a Close of a loop whose Run has not returned.
	ErrLoopRunning = errors.New("stepio: loop is running")

	// ErrQueueFull answers a Post or a TrySubmit over the queue's bound.
	ErrQueueFull = errors.New("stepio: queue full")

	// ErrPoolClosed answers a submission to a pool that was stopped.
	ErrPoolClosed = errors.New("stepio: pool closed")

	// ErrTruncated says that a datagram was longer than the buffer it was read
	// into: its beginning is there, the rest is lost.
	ErrTruncated = errors.New("stepio: datagram truncated")
)

// sentinel is the type of an error that is compared with at every operation, when
// the caches have just forgotten whatever the comparison would have to look at.
type sentinel struct{ text string }

// Error implements error.
func (s *sentinel) Error() string { return s.text }

// netError wraps err as package net does.
func netError(op, network string, err error, near, far netip.AddrPort) error {
	return &net.OpError{Op: op, Net: network, Source: netAddr(network, near), Addr: netAddr(network, far), Err: err}
}

// netAddr is a as a net.Addr, nil when it is not valid.
func netAddr(network string, a netip.AddrPort) net.Addr {
	switch {
	case !a.IsValid():
		return nil
	case network == "udp":
		return net.UDPAddrFromAddrPort(a)
	default:
		return net.TCPAddrFromAddrPort(a)
	}
}

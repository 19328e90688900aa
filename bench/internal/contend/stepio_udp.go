package contend

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

const (
	udpRoom   = 1 << 20 // bytes of datagrams that the kernel is asked to keep, in every server of the comparison that can ask
	udpLength = 64      // datagrams a batch
	udpSize   = 65_527  // the longest datagram that there is, over IPv6
)

// serveDatagrams has one task read and answer a datagram at a time.
func serveDatagrams(l *stepio.Loop) (netip.AddrPort, error) {
	return serveUDP(l, func(c *stepio.UDPConn) sm.Frame { return &singleEcho{conn: c} })
}

// serveBatches is examples/udp_echo_server on one loop.
func serveBatches(l *stepio.Loop) (netip.AddrPort, error) {
	return serveUDP(l, func(c *stepio.UDPConn) sm.Frame {
		return &batchEcho{conn: c, batch: stepio.NewBatch(udpLength, udpSize)}
	})
}

func serveUDP(l *stepio.Loop, handle func(*stepio.UDPConn) sm.Frame) (netip.AddrPort, error) {
	conn, err := stepio.ListenUDP(l, anyPort, stepio.ListenUDPOptions{ReadBuffer: udpRoom})
	if err != nil {
		return netip.AddrPort{}, err
	}
	l.Spawn(handle(conn))
	return conn.LocalAddr(), nil
}

// fatal is err when no reading goes on after it. Any other error is of a
// datagram that was sent earlier, and that one's alone.
func fatal(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// singleEcho stands for
//
//	for (;;) { n = co_await sock.recv_from(buf, from); co_await sock.send_to(buf, n, from); }
type singleEcho struct {
	conn  *stepio.UDPConn
	rest  []byte // the datagram that the socket had no room for
	to    netip.AddrPort
	err   error
	state echoState
}

func (e *singleEcho) Step(t *sm.Task) sm.Await {
	buf := t.Scratch() // until this step returns
	for {
		switch e.state {
		case echoReading:
			n, from, err := e.conn.ReadFrom(buf)
			if err == stepio.ErrWouldBlock {
				return e.conn.Readable()
			}
			if err != nil {
				if e.err = fatal(err); e.err != nil {
					return sm.Done
				}
				continue
			}
			// Any other error is this datagram's alone, and UDP promises nothing.
			if _, err = e.conn.WriteTo(buf[:n], from); err == stepio.ErrWouldBlock {
				e.rest, e.to = append(e.rest[:0], buf[:n]...), from
				e.state = echoWriting
				return e.conn.Writable()
			}
		case echoWriting:
			if _, err := e.conn.WriteTo(e.rest, e.to); err == stepio.ErrWouldBlock {
				return e.conn.Writable()
			}
			e.state = echoReading
		default:
			panic(fmt.Sprintf("singleEcho.Step: state %d", e.state))
		}
	}
}

// Err is what the socket has failed with.
func (e *singleEcho) Err() error { return e.err }

func (e *singleEcho) Close() error { return e.conn.Close() }

// batchEcho stands for
//
//	for (;;) { n = co_await sock.recv_batch(batch); co_await sock.send_batch(batch, n); }
type batchEcho struct {
	conn  *stepio.UDPConn
	batch []stepio.Datagram
	out   []stepio.Datagram // of the batch, what is not sent yet
	err   error
	state echoState
}

func (e *batchEcho) Step(*sm.Task) sm.Await {
	for {
		switch e.state {
		case echoReading:
			n, err := e.conn.ReadBatch(e.batch)
			if err == stepio.ErrWouldBlock {
				return e.conn.Readable()
			}
			if err != nil {
				if e.err = fatal(err); e.err != nil {
					return sm.Done
				}
				continue
			}
			e.out = e.batch[:n]
			e.state = echoWriting
		case echoWriting:
			n, err := e.conn.WriteBatch(e.out)
			e.out = e.out[n:] // also those that could not be sent: nobody else suffers for them
			if err == stepio.ErrWouldBlock {
				return e.conn.Writable()
			}
			if err != nil {
				e.err = err
				return sm.Done
			}
			e.state = echoReading
		default:
			panic(fmt.Sprintf("batchEcho.Step: state %d", e.state))
		}
	}
}

// Err is what the socket has failed with.
func (e *batchEcho) Err() error { return e.err }

func (e *batchEcho) Close() error { return e.conn.Close() }

// Command udp_echo_server sends back what it gets, over UDP, level-triggered.
//
// It moves datagrams in batches: all that have come by one system call, and all
// the answers by another. With -workers, several tasks share a socket: while a
// worker has the batch of one, another one reads.
package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/examples/internal/cli"
	"github.com/stepio-go/stepio/sm"
)

const (
	batchLength = 64
	batchSize   = 65_527 // the longest datagram that there is, over IPv6
	mostReaders = 16     // tasks that share a socket, each with a batch of its own
)

func main() {
	flags := cli.Define(":8080", "a UDP echo server, level-triggered")
	workers := cli.Workers()
	flags.Main(func(s *cli.Server) (netip.AddrPort, error) {
		pool := s.Pool(*workers)
		return s.ListenUDP(func(l *stepio.Loop, conn *stepio.UDPConn) {
			if pool == nil {
				l.Spawn(newEcho(conn))
				return
			}
			socket := &shared{UDPConn: conn}
			for range min(*workers, mostReaders) {
				l.Spawn(newPooledEcho(socket, pool))
			}
		})
	})
}

// echo stands for
//
//	for (;;) { n = co_await sock.recv_batch(batch); co_await sock.send_batch(batch, n); }
type echo struct {
	conn  *stepio.UDPConn
	batch []stepio.Datagram
	out   []stepio.Datagram // of the batch, what is not sent yet
	err   error
	state echoState
}

type echoState uint8

const (
	echoReading echoState = iota // waits for datagrams
	echoWriting                  // sends them back
)

func (s echoState) String() string { return [...]string{"echoReading", "echoWriting"}[s] }

func newEcho(conn *stepio.UDPConn) *echo {
	return &echo{conn: conn, batch: stepio.NewBatch(batchLength, batchSize)}
}

func (e *echo) Step(*sm.Task) sm.Await {
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
			panic(fmt.Sprintf("echo.Step: state %d", e.state))
		}
	}
}

// Err is what the socket has failed with.
func (e *echo) Err() error { return e.err }

// Idle is true while no datagrams are in hand: see sm.Idler.
func (e *echo) Idle() bool { return e.state == echoReading }

func (e *echo) Close() error { return e.conn.Close() }

// fatal is err when no reading goes on after it. Any other error is of a
// datagram that was sent earlier, and that one's alone.
func fatal(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// pooledEcho stands for
//
//	for (;;) {
//	    n = co_await sock.recv_batch(batch);
//	    replies = co_await pool.submit(loop, [=] { return handle(batch, n); });
//	    co_await sock.send_batch(replies);
//	}
type pooledEcho struct {
	conn  *shared
	pool  *stepio.Pool
	batch []stepio.Datagram // the worker's while it has it
	job   stepio.Job[[]stepio.Datagram]
	out   []stepio.Datagram
	err   error
	state pooledState
}

type pooledState uint8

const (
	pooledReading  pooledState = iota // waits for datagrams
	pooledHandling                    // a worker has them
	pooledWriting                     // sends the replies
)

func (s pooledState) String() string {
	return [...]string{"pooledReading", "pooledHandling", "pooledWriting"}[s]
}

// shared is a socket that several tasks use: the last to end closes it.
type shared struct {
	*stepio.UDPConn
	users int
}

func (s *shared) Close() error {
	if s.users--; s.users > 0 {
		return nil
	}
	return s.UDPConn.Close()
}

func newPooledEcho(conn *shared, pool *stepio.Pool) *pooledEcho {
	conn.users++
	return &pooledEcho{conn: conn, pool: pool, batch: stepio.NewBatch(batchLength, batchSize)}
}

func (e *pooledEcho) Step(t *sm.Task) sm.Await {
	for {
		switch e.state {
		case pooledReading:
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
			requests := e.batch[:n]
			e.job.Start(e.pool, func() ([]stepio.Datagram, error) { return handle(requests), nil })
			e.state = pooledHandling
		case pooledHandling:
			if a := e.job.Step(t); a.Pending() {
				return a
			}
			replies, err := e.job.Result()
			if err != nil {
				// Were this the task's end, it would be the socket's as well.
				slog.Error("udp_echo_server: a batch is lost", "err", err)
			}
			e.out = replies
			e.state = pooledWriting
		case pooledWriting:
			n, err := e.conn.WriteBatch(e.out)
			e.out = e.out[n:]
			if err == stepio.ErrWouldBlock {
				return e.conn.Writable()
			}
			if err != nil {
				e.err = err
				return sm.Done
			}
			e.state = pooledReading
		default:
			panic(fmt.Sprintf("pooledEcho.Step: state %d", e.state))
		}
	}
}

// Err is what the socket has failed with.
func (e *pooledEcho) Err() error { return e.err }

// Idle is true while no datagrams are in hand, or at a worker's.
func (e *pooledEcho) Idle() bool { return e.state == pooledReading }

// Close gives up the job, whose batch nobody waits for any more, and lets go of
// the socket.
func (e *pooledEcho) Close() error {
	return errors.Join(e.job.Close(), e.conn.Close())
}

// handle stands for the work that a real server would do.
func handle(requests []stepio.Datagram) []stepio.Datagram { return requests }

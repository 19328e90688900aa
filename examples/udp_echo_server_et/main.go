// Command udp_echo_server_et sends back what it gets, over UDP, edge-triggered.
//
// It runs every datagram as a task of its own, which suits work that takes
// different times: an answer that has to wait, for a worker or for anything
// else, holds up no other. The tasks in flight are bounded, at 1024 a loop: at
// the bound no more is read until one ends, and what the kernel has no room for
// meanwhile is lost, as UDP has it.
package main

import (
	"errors"
	"fmt"
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
	mostAnswers = 1024   // tasks in flight, for each loop
)

func main() {
	flags := cli.Define(":8080", fmt.Sprintf(
		"a UDP echo server, edge-triggered, each datagram a task of its own, at most %d a loop", mostAnswers))
	workers := cli.Workers()
	flags.Main(func(s *cli.Server) (netip.AddrPort, error) {
		pool := s.Pool(*workers)
		return s.ListenUDP(func(l *stepio.Loop, conn *stepio.UDPConn) {
			l.Spawn(newReader(conn, pool, mostAnswers))
		})
	})
}

// reader stands for
//
//	for (;;) {
//	    co_await until([&] { return in_flight < most; });
//	    for (auto& d : co_await sock.async_recv_from_et(batch, most - in_flight)) spawn(answer(d));
//	}
type reader struct {
	conn     *stepio.UDPConn
	pool     *stepio.Pool // nil: the answers are made on the loop
	batch    []stepio.Datagram
	inFlight int
	most     int
	full     sm.Waker // of the reader's task, while it waits for answers to end
	err      error
	state    readerState
}

type readerState uint8

const (
	readerReading readerState = iota // waits for datagrams
	readerFull                       // waits for an answer to end
)

func (s readerState) String() string { return [...]string{"readerReading", "readerFull"}[s] }

// newReader is the frame that reads from conn and has at most that many answers
// in flight.
func newReader(conn *stepio.UDPConn, pool *stepio.Pool, most int) *reader {
	return &reader{conn: conn, pool: pool, most: most, batch: stepio.NewBatch(batchLength, batchSize)}
}

func (r *reader) Step(t *sm.Task) sm.Await {
	for {
		switch r.state {
		case readerReading:
			if r.inFlight == r.most {
				r.full = t.Waker()
				r.state = readerFull
				continue
			}
			n, err := r.conn.ReadFromET(r.batch[:min(len(r.batch), r.most-r.inFlight)])
			if err == stepio.ErrWouldBlock {
				if t.Draining() {
					r.full = t.Waker() // to be asked again when the last answer has ended
				}
				return r.conn.ReadableET()
			}
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				r.err = err
				return sm.Done
			}
			// Any other error is of a datagram that was sent earlier, and that one's
			// alone: n is 0, and reading goes on.
			for _, d := range r.batch[:n] {
				r.inFlight++
				t.Spawn(&answer{to: d.Addr, data: append([]byte(nil), d.Data...), reader: r})
			}
		case readerFull:
			if r.inFlight == r.most {
				return sm.Park
			}
			r.full = sm.Waker{}
			r.state = readerReading
		default:
			panic(fmt.Sprintf("reader.Step: state %d", r.state))
		}
	}
}

// ended is called by each answer when it has ended.
func (r *reader) ended() {
	r.inFlight--
	r.full.Wake()
}

// Err is what the socket has failed with.
func (r *reader) Err() error { return r.err }

// Idle is true while no datagram is in hand: see sm.Idler.
func (r *reader) Idle() bool { return r.state == readerReading && r.inFlight == 0 }

// Close releases the socket, with which the answers in flight end.
func (r *reader) Close() error { return r.conn.Close() }

// answer is one datagram's task. It stands for
//
//	reply = co_await pool.submit(loop, [=] { return handle(data); });
//	co_await sock.send_to(reply, to);
type answer struct {
	reader *reader
	to     netip.AddrPort
	data   []byte
	job    stepio.Job[[]byte]
	err    error
	state  answerState
}

type answerState uint8

const (
	answerStarting answerState = iota // has the datagram
	answerHandling                    // a worker has it
	answerSending                     // has the reply
)

func (s answerState) String() string {
	return [...]string{"answerStarting", "answerHandling", "answerSending"}[s]
}

func (a *answer) Step(t *sm.Task) sm.Await {
	for {
		switch a.state {
		case answerStarting:
			if a.reader.pool == nil {
				a.data = handle(a.data)
				a.state = answerSending
				continue
			}
			data := a.data
			a.job.Start(a.reader.pool, func() ([]byte, error) { return handle(data), nil })
			a.state = answerHandling
		case answerHandling:
			if w := a.job.Step(t); w.Pending() {
				return w
			}
			if a.data, a.err = a.job.Result(); a.err != nil {
				return sm.Done
			}
			a.state = answerSending
		case answerSending:
			_, err := a.reader.conn.WriteTo(a.data, a.to)
			if err == stepio.ErrWouldBlock {
				return a.reader.conn.WritableET()
			}
			return sm.Done // an error is this datagram's alone, and UDP promises nothing
		default:
			panic(fmt.Sprintf("answer.Step: state %d", a.state))
		}
	}
}

// Err is what handling the datagram has failed with.
func (a *answer) Err() error { return a.err }

// Close gives up the job, and makes room for another answer.
func (a *answer) Close() error {
	a.reader.ended()
	return a.job.Close()
}

// handle stands for the work that a real server would do.
func handle(data []byte) []byte { return data }

package hostile

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// What the server runs for a connection.

// The first byte of a connection says what it wants.
const (
	wantEcho   = 'e' // the rest back
	wantSink   = 's' // the rest read, and nothing said
	wantFilled = 'f' // a byte, and to be waited for until messageSize bytes have come
	wantMore   = 'm' // more than it is going to read
	wantSleep  = 'z' // a byte, and to be forgotten for sleepFor
	wantWork   = 'w' // a byte, and a worker of a pool busy with it
)

const (
	messageSize = 100
	sleepFor    = 5 * time.Millisecond
	workFor     = 100 * time.Microsecond
)

// guest is a connection. It stands for
//
//	switch (co_await read(1)) {
//	case 'e': co_await copy(conn, conn); break;
//	case 's': while (co_await read(buf)); break;
//	case 'f': co_await write("f"); co_await read_full(100); break;
//	case 'm': for (;;) co_await write_all(message);
//	case 'z': co_await write("z"); co_await sleep(5ms); while (co_await read(buf)); break;
//	case 'w': co_await write("w"); co_await pool.submit(work); while (co_await read(buf)); break;
//	}
type guest struct {
	server *server
	conn   *stepio.TCPConn
	copy   stepio.Copy
	full   stepio.ReadFull
	out    stepio.WriteAll
	job    stepio.Job[struct{}]
	until  time.Time
	edge   bool
	waited bool // before it has said anything
	closed bool
	state  guestState
}

type guestState uint8

const (
	guestComing   guestState = iota // edge-triggered from the start
	guestAsking                     // has not said what it wants
	guestEchoing                    // gets back what it sends
	guestFilling                    // a message is to be whole
	guestFed                        // gets more than it reads
	guestSleeping                   // nobody looks at its connection
	guestWorking                    // nor here, until the worker is done
	guestDraining                   // whatever it sends is dropped
)

// String is the state by name, for Dump.
func (s guestState) String() string {
	return [...]string{"guestComing", "guestAsking", "guestEchoing", "guestFilling", "guestFed", "guestSleeping",
		"guestWorking", "guestDraining"}[s]
}

func newGuest(s *server, c *stepio.TCPConn, edge bool) *guest {
	s.stat.Opened++
	return &guest{server: s, conn: c, edge: edge}
}

// Step implements sm.Frame.
func (g *guest) Step(t *sm.Task) sm.Await {
	for {
		switch g.state {
		case guestComing:
			g.state = guestAsking
			if g.edge {
				g.waited = true
				return g.conn.ReadableET() // the mode is the descriptor's from now on
			}
		case guestAsking:
			_, err := g.conn.Read(t.Scratch()[:1])
			if err == stepio.ErrWouldBlock {
				g.waited = true
				return g.readable()
			}
			if err != nil {
				if !g.waited && errors.Is(err, syscall.ECONNRESET) {
					g.server.stat.DeadOnArrival++
				}
				return g.end(err)
			}
			if err := g.begin(t, t.Scratch()[0]); err != nil {
				return g.end(err)
			}
		case guestEchoing:
			if a := g.copy.Step(t); a.Pending() {
				return a
			}
			return g.end(g.copy.Err())
		case guestFilling:
			if a := g.full.Step(t); a.Pending() {
				return a
			}
			return g.end(g.full.Err())
		case guestFed:
			if a := g.out.Step(t); a.Pending() {
				return a
			}
			if g.out.Err() != nil {
				return g.end(g.out.Err())
			}
			g.out.StartShared(g.conn, g.server.message)
		case guestSleeping:
			if a := t.SleepUntil(g.until); a.Pending() {
				return a
			}
			g.state = guestDraining
		case guestWorking:
			if a := g.job.Step(t); a.Pending() {
				return a
			}
			g.state = guestDraining
		case guestDraining:
			_, err := g.conn.Read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return g.readable()
			}
			if err != nil {
				return g.end(err)
			}
		default:
			panic(fmt.Sprintf("guest.Step: state %d", g.state))
		}
	}
}

func (g *guest) readable() sm.Await {
	if g.edge {
		return g.conn.ReadableET()
	}
	return g.conn.Readable()
}

// begin does as the guest wants.
func (g *guest) begin(t *sm.Task, want byte) error {
	switch want {
	case wantEcho:
		g.copy.Start(g.conn, g.conn)
		g.state = guestEchoing
		return nil
	case wantSink:
		g.state = guestDraining
		return nil
	case wantMore:
		g.out.StartShared(g.conn, g.server.message)
		g.state = guestFed
		return nil
	case wantFilled:
		g.full.Start(g.conn, make([]byte, messageSize))
		g.state = guestFilling
	case wantSleep:
		g.until = t.Now().Add(sleepFor)
		g.state = guestSleeping
	case wantWork:
		g.job.Start(g.server.pool, func() (struct{}, error) {
			for end := time.Now().Add(workFor); time.Now().Before(end); {
			}
			return struct{}{}, nil
		})
		g.state = guestWorking
	default:
		return fmt.Errorf("a guest wants %q", want)
	}
	_, err := g.conn.Write([]byte{want})
	return err
}

// end counts how the connection has ended.
func (g *guest) end(err error) sm.Await {
	kind := "another error"
	switch {
	case err == nil, err == io.EOF, err == io.ErrUnexpectedEOF:
		kind = "end of input"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		kind = "reset"
	}
	g.server.stat.Ends[kind]++
	return sm.Done
}

// Close implements sm.Frame's end.
func (g *guest) Close() error {
	if g.closed {
		g.server.stat.Twice++
	}
	g.closed = true
	g.server.stat.Closed++
	return errors.Join(g.job.Close(), g.out.Close(), g.copy.Close(), g.conn.Close())
}

// acceptor accepts in batches. With every it is lazy: it looks at the queue that
// often, and whoever comes in between waits there.
type acceptor struct {
	server *server
	ln     *stepio.TCPListener
	every  time.Duration
	next   time.Time
}

// Step implements sm.Frame.
func (a *acceptor) Step(t *sm.Task) sm.Await {
	if await := t.SleepUntil(a.next); await.Pending() {
		return await
	}
	for {
		batch, err := a.ln.AcceptET(nil)
		switch {
		case err == stepio.ErrWouldBlock && a.every == 0:
			return a.ln.ReadableET()
		case err == stepio.ErrWouldBlock:
			a.next = t.Now().Add(a.every)
			return sm.Park.Until(a.next)
		case err != nil:
			return sm.Done
		}
		for _, c := range batch {
			t.Spawn(newGuest(a.server, c, a.every == 0))
		}
	}
}

// Close implements sm.Frame's end.
func (a *acceptor) Close() error { return a.ln.Close() }

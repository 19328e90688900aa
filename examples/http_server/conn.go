package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// limits are what a client may ask of the server's patience and memory.
type limits struct {
	idle   time.Duration // from an answer to the next request's first byte; then the connection is closed
	head   time.Duration // from a request's first byte to the end of its head; then 408
	body   time.Duration // from there to the end of its body; then 408
	write  time.Duration // for the client to take any byte of an answer; then the connection is closed
	linger time.Duration // for the client to close, after our last answer
	last   time.Duration // for a request that is under way already, when the server shuts down

	bodyBytes int64 // the longest body that is read past; 413 above
}

var defaultLimits = limits{
	idle:      60 * time.Second,
	head:      10 * time.Second,
	body:      60 * time.Second,
	write:     30 * time.Second,
	linger:    5 * time.Second,
	last:      500 * time.Millisecond,
	bodyBytes: 10 << 20,
}

const (
	// fullBatch is how many bytes of answers are collected before they are sent.
	fullBatch = 64 << 10
	// mostAnswers is how many requests of one connection are answered before the
	// other connections have their turn. The library's budget counts reads and
	// writes; a batch of pipelined requests is one of each.
	mostAnswers = 64
)

// conn is a client's connection. It stands for
//
//	do {
//	    head = co_await read_head(sock);
//	    if (!valid(head)) { co_await respond(sock, 400); break; }
//	    co_await skip_body(sock, head);
//	    co_await respond(sock, answer(head));
//	} while (keep_alive(head));
//	co_await linger(sock);
//
// but that the answers to requests that came together leave together.
//
// A request is answered once all of it is there, its body too: half a request
// has no effect. What can't be understood is answered with an error, and the
// connection is closed, since nobody knows where the next request would begin.
//
// When the server shuts down, every request that has come is answered, the last
// one with Connection: close. A client that is between two requests may have sent
// one that is still under way, so it is waited for a little.
//
// An idle connection owns no buffer: in and out are empty, req is nil.
type conn struct {
	sock   *stepio.TCPConn
	server *server // of this loop

	in     stepio.Input
	body   body
	out    stepio.WriteAll
	linger stepio.Linger

	req      *http.Request // whose body is being read past
	content  []byte        // of an answer too long for the batch; shared by all connections
	deadline time.Time     // of this state; zero until it waits
	scanned  int           // of in's bytes: no end of head is there
	closing  bool          // after what is being written
	blank    bool          // an empty line has come before the head that is awaited
	state    connState
	then     connState // what comes after connWriting
}

type connState uint8

const (
	connIdle      connState = iota // between two requests; nothing in hand
	connLast                       // the same while the server shuts down: a last request may be under way
	connHead                       // some of a request's head is in hand
	connBody                       // reads past the request's body
	connAnswering                  // the request is whole
	connWriting                    // sends the batch of answers
	connContent                    // sends the content that follows the batch
	connLingering                  // everything is sent: ends the connection in good order
)

func (s connState) String() string {
	return [...]string{
		"connIdle", "connLast", "connHead", "connBody", "connAnswering", "connWriting", "connContent", "connLingering",
	}[s]
}

// Step answers requests as long as there are whole ones in hand, into a batch.
// The batch is the server's memory, so it is sent before the step ends, and
// before anything is read: the client may be waiting for it.
func (c *conn) Step(t *sm.Task) sm.Await {
	batch, answers := c.server.batch[:0], 0
	for {
		switch c.state {
		case connIdle, connLast:
			allowed := c.server.limits.idle
			if t.Draining() {
				if c.state == connIdle {
					c.enter(connLast)
				}
				allowed = c.server.limits.last
			}
			switch err := c.in.More(t, c.sock); {
			case err == stepio.ErrWouldBlock && c.late(t, allowed):
				return sm.Done // it has asked for nothing, so there is nothing to say
			case err == stepio.ErrWouldBlock:
				return c.sock.Readable().By(c.deadline)
			case err != nil:
				return sm.Done // io.EOF: the client has finished
			}
			c.enter(connHead)

		case connHead:
			head, fault := c.nextHead()
			switch {
			case fault != 0:
				batch = c.refuse(batch, fault)
			case head != nil:
				c.scanned, c.blank = 0, false
				c.req, fault = c.server.parse(head)
				if fault == 0 {
					fault = c.beginBody(len(head))
				}
				switch {
				case fault != 0:
					batch = c.refuse(batch, fault)
				case c.body.done():
					c.enter(connAnswering)
				default:
					if expectsContinue(c.req) && !c.body.begun() {
						batch = append(batch, "HTTP/1.1 100 Continue\r\n\r\n"...)
					}
					batch = c.flush(batch, connBody)
				}
			case len(batch) > 0:
				batch = c.flush(batch, connHead)
			case len(c.in.Bytes()) == 0:
				c.enter(connIdle)
			default:
				c.scanned = len(c.in.Bytes())
				switch err := c.in.More(t, c.sock); {
				case err == nil:
				case err == stepio.ErrWouldBlock && c.late(t, c.server.limits.head):
					batch = c.refuse(batch, http.StatusRequestTimeout)
				case err == stepio.ErrWouldBlock:
					return c.sock.Readable().By(c.deadline)
				case err == io.EOF:
					batch = c.refuse(batch, http.StatusBadRequest) // cut short
				default:
					return sm.Done
				}
			}

		case connBody:
			if c.late(t, c.server.limits.body) {
				batch = c.refuse(batch, http.StatusRequestTimeout)
				continue
			}
			if a := c.body.Step(t); a.Pending() {
				return a.By(c.deadline)
			}
			switch {
			case c.body.Err() == io.EOF:
				batch = c.refuse(batch, http.StatusBadRequest) // cut short
			case c.body.Err() != nil:
				return sm.Done
			case c.body.fault != 0:
				batch = c.refuse(batch, c.body.fault)
			default:
				c.enter(connAnswering)
			}

		case connAnswering:
			c.closing = c.isLast(t)
			batch, c.content = c.server.answer(batch, t.Now(), c.req, c.closing)
			c.req = nil
			answers++
			switch {
			case c.content != nil:
				batch = c.flush(batch, connContent)
			case c.closing:
				batch = c.flush(batch, connLingering)
			case len(batch) >= fullBatch || answers == mostAnswers:
				batch = c.flush(batch, connHead)
			default:
				c.enter(connHead)
			}

		case connWriting:
			if a := c.send(t); a.Pending() {
				return a
			}
			if c.out.Err() != nil {
				return sm.Done
			}
			c.enter(c.then)
			if c.state == connContent {
				c.out.StartShared(c.sock, c.content)
				c.content = nil
			}
			if answers >= mostAnswers {
				return sm.Yield
			}

		case connContent:
			if a := c.send(t); a.Pending() {
				return a
			}
			switch {
			case c.out.Err() != nil:
				return sm.Done
			case c.closing:
				c.enter(connLingering)
			default:
				c.enter(connHead)
			}

		case connLingering:
			if c.deadline.IsZero() { // just entered
				c.in.Discard(len(c.in.Bytes()))
				c.deadline = t.Now().Add(c.server.limits.linger)
				c.linger.Start(c.sock, c.deadline)
			}
			return c.linger.Step(t)

		default:
			panic(fmt.Sprintf("conn.Step: state %d", c.state))
		}
	}
}

// enter goes on in another state, which has a deadline of its own.
func (c *conn) enter(state connState) {
	c.state = state
	c.deadline = time.Time{}
}

// late reports whether this state has taken longer than allowed. The time runs
// from the first call, which sets the deadline to wait by: a state that never
// waits never asks for the time.
func (c *conn) late(t *sm.Task, allowed time.Duration) bool {
	if c.deadline.IsZero() {
		c.deadline = t.Now().Add(allowed)
	}
	return !t.Now().Before(c.deadline)
}

// isLast reports whether the connection ends with the answer to this request: as
// the client asks, or because the server shuts down and no other request has come.
func (c *conn) isLast(t *sm.Task) bool {
	switch {
	case closes(c.req):
		return true
	case !t.Draining() || len(c.in.Bytes()) > 0:
		return false
	}
	return c.in.More(t, c.sock) != nil
}

// nextHead is the head of the next request in hand, nil when it is not whole
// yet. An empty line that comes before it is dropped (RFC 9112, 2.2): some
// clients send one after a body, and have not begun a request by that.
func (c *conn) nextHead() (head []byte, fault int) {
	if b := c.in.Bytes(); !c.blank && len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		c.in.Discard(2)
		c.scanned, c.blank = 0, true
	}
	b := c.in.Bytes()
	size, fault := scanHead(b, c.scanned)
	if size == 0 {
		return nil, fault
	}
	return b[:size], 0
}

// beginBody takes the head, of the given size, and what is in hand of the body.
func (c *conn) beginBody(size int) (fault int) {
	c.in.Discard(size)
	c.body.start(c.sock, &c.in, c.req.ContentLength, c.server.limits.bodyBytes)
	return c.body.fault
}

// flush begins to send the batch, and says what comes after it.
func (c *conn) flush(batch []byte, then connState) []byte {
	c.out.Start(c.sock, batch)
	c.enter(connWriting)
	c.then = then
	c.server.batch = batch[:0] // which may have grown
	return batch[:0]
}

// refuse answers what can't be answered otherwise, and closes.
func (c *conn) refuse(batch []byte, status int) []byte {
	batch = c.server.refusal(batch, status, c.req)
	c.req = nil
	return c.flush(batch, connLingering)
}

// send goes on sending, as long as the client takes anything at all in the time
// that it has.
func (c *conn) send(t *sm.Task) sm.Await {
	left := c.out.Pending()
	a := c.out.Step(t)
	if !a.Pending() {
		return sm.Done
	}
	if c.out.Pending() < left {
		c.deadline = time.Time{}
	}
	if c.late(t, c.server.limits.write) {
		_ = c.sock.Close() // the next write fails, and ends the task
		return sm.Yield
	}
	return a.By(c.deadline)
}

// Close releases the connection and what is held for it.
func (c *conn) Close() error {
	_ = c.in.Close() // these two have no error to report
	_ = c.out.Close()
	return c.sock.Close()
}

// Inspect tells Dump which callee is at work.
func (c *conn) Inspect() (state string, callee sm.Frame) {
	switch c.state {
	case connBody:
		callee = &c.body
	case connWriting, connContent:
		callee = &c.out
	case connLingering:
		callee = &c.linger
	}
	return c.state.String(), callee
}

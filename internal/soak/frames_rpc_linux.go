package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// rpc serves a connection of requests and answers (rpc.go). It stands for
//
//	for (;;) {
//	    req = co_await with_timeout(read_request(sock), patience);
//	    switch (req.kind) {
//	    case get:  co_await write_stream(sock, req); break;
//	    case hash: co_await write(sock, co_await pool.submit(loop, [=] { return sha256(req); })); break;
//	    case nap:  co_await sleep(req.size); co_await write(sock, head); break;
//	    }
//	}
//
// When the server shuts down it says so, and goes on until the client closes: so
// no request is lost that the client of such a connection has sent.
type rpc struct {
	conn    *stepio.TCPConn
	service *service
	in      stepio.Input
	out     stepio.WriteAll
	job     stepio.Job[[sha256.Size]byte]
	linger  stepio.Linger
	req     rpcHead
	sent    int // of the content that was asked for
	until   time.Time
	told    bool // that the server shuts down
	state   rpcState
	then    rpcState // what comes after rpcWriting
}

type rpcState uint8

const (
	rpcReading   rpcState = iota // waits for a request, or the rest of one
	rpcHashing                   // a worker has the content
	rpcNapping                   // waits for the time to answer
	rpcSending                   // the head of the content is sent, and some of it
	rpcWriting                   // sends what is in out
	rpcLingering                 // everything is sent
)

func (s rpcState) String() string {
	return [...]string{"rpcReading", "rpcHashing", "rpcNapping", "rpcSending", "rpcWriting", "rpcLingering"}[s]
}

func (r *rpc) Step(t *sm.Task) sm.Await {
	for {
		switch r.state {
		case rpcReading:
			if t.Draining() && !r.told && len(r.in.Bytes()) == 0 {
				r.told = true
				r.answer(rpcHead{kind: rpcBye}, nil, rpcReading)
				continue
			}
			whole, err := r.request(t)
			if err != nil {
				r.service.failures.add("%v", err)
				return sm.Done
			}
			if whole {
				continue
			}
			switch err := r.in.More(t, r.conn); {
			case err == nil:
				patience := rpcPatience
				if len(r.in.Bytes()) >= rpcHeadSize {
					patience = contentPatience
				}
				if err := r.conn.SetReadDeadline(t.Now().Add(patience)); err != nil {
					return sm.Done
				}
			case err == stepio.ErrWouldBlock:
				return r.conn.Readable()
			case errors.Is(err, os.ErrDeadlineExceeded):
				r.answer(rpcHead{kind: rpcLate}, nil, rpcLingering)
			default:
				return sm.Done // the end of input, or a reset: whatever was asked for last, nobody wants it
			}
		case rpcHashing:
			if a := r.job.Step(t); a.Pending() {
				return a
			}
			sum, err := r.job.Result()
			if err != nil {
				r.service.failures.add("job: %v", err)
				return sm.Done
			}
			r.answer(rpcHead{kind: rpcHash, size: len(sum), key: r.req.key}, sum[:], rpcReading)
		case rpcNapping:
			if a := t.SleepUntil(r.until); a.Pending() {
				return a
			}
			r.answer(rpcHead{kind: rpcNap, key: r.req.key}, nil, rpcReading)
		case rpcSending:
			r.sendMore(t)
		case rpcWriting:
			if a := r.out.Step(t); a.Pending() {
				return a
			}
			if r.out.Err() != nil {
				return sm.Done
			}
			r.state = r.then
			if r.state == rpcLingering {
				r.in.Discard(len(r.in.Bytes()))
				r.linger.Start(r.conn, t.Now().Add(rpcPatience))
			}
		case rpcLingering:
			return r.linger.Step(t)
		default:
			panic(fmt.Sprintf("rpc.Step: state %d", r.state))
		}
	}
}

// request begins to serve the request in hand, when it is whole. The error is of
// a client's bytes that are not what it has sent.
func (r *rpc) request(t *sm.Task) (whole bool, err error) {
	in := r.in.Bytes()
	if len(in) < rpcHeadSize {
		return false, nil
	}
	if r.req, err = parseHead(in); err != nil {
		return false, err
	}
	used := rpcHeadSize
	switch r.req.kind {
	case rpcGet:
		r.sent = 0
		r.out.Start(r.conn, r.req.appendTo(t.Scratch()[:0]))
		r.state, r.then = rpcWriting, rpcSending
	case rpcNap:
		r.until = t.Now().Add(time.Duration(r.req.size) * time.Millisecond)
		r.state = rpcNapping
	case rpcHash:
		used += r.req.size
		if len(in) < used {
			return false, nil
		}
		if err := r.req.key.check(in[rpcHeadSize:used], 0); err != nil {
			return false, fmt.Errorf("rpc: %w", err)
		}
		content := append([]byte(nil), in[rpcHeadSize:used]...) // the worker's
		r.job.Start(r.service.pool, func() ([sha256.Size]byte, error) { return sha256.Sum256(content), nil })
		r.state = rpcHashing
	default:
		return false, fmt.Errorf("rpc: a client says %d", r.req.kind)
	}
	r.in.Discard(used)
	return true, r.conn.SetReadDeadline(time.Time{})
}

// answer begins to send a head and what follows it.
func (r *rpc) answer(h rpcHead, content []byte, then rpcState) {
	var space [rpcHeadSize + sha256.Size]byte
	r.out.Start(r.conn, append(h.appendTo(space[:0]), content...))
	r.state, r.then = rpcWriting, then
}

// sendMore begins to send the next part of the content.
func (r *rpc) sendMore(t *sm.Task) {
	n := min(r.req.size-r.sent, sm.ScratchSize)
	if n == 0 {
		r.state = rpcReading
		return
	}
	part := t.Scratch()[:n]
	r.req.key.fill(part, int64(r.sent))
	r.sent += n
	r.out.Start(r.conn, part)
	r.state, r.then = rpcWriting, rpcSending
}

func (r *rpc) Close() error {
	return errors.Join(r.in.Close(), r.out.Close(), r.job.Close(), r.linger.Close(), r.conn.Close())
}

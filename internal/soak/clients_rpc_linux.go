package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Clients of the rpc server. No restart may lose a request of theirs: a server
// that shuts down says so, the client closes, and until then it is answered.

// caller is a connection to the rpc server.
type caller struct {
	*link
	answers int
	bye     bool // the server shuts down
	head    [rpcHeadSize]byte
	got     int // of head
}

func (w *worker) call() (*caller, error) {
	l, err := w.dial(w.traffic.addrs.RPC, nil)
	if l == nil {
		return nil, err
	}
	return &caller{link: l}, nil
}

// excuse is nil for an error of a connection that no server has accepted: a
// restart may have caught it half-way through the handshake. Another one it may
// cut only while the machine stands still, since the client does not get the time
// to close then.
func (c *caller) excuse(err error) error {
	if err != nil && c.answers > 0 && !c.w.traffic.stalled() {
		return fmt.Errorf("rpc, after %d answers: %w", c.answers, err)
	}
	return c.link.excuse(err)
}

// end is what a session returns that has failed, or was cut.
func (c *caller) end(err error) error { return errors.Join(c.excuse(err), c.Close()) }

// heads reads a head.
func (c *caller) heads(until time.Time) (rpcHead, error) {
	if err := c.SetReadDeadline(until); err != nil {
		return rpcHead{}, err
	}
	for c.got < rpcHeadSize {
		n, err := c.Read(c.head[c.got:])
		if c.got += n; err != nil && c.got < rpcHeadSize {
			return rpcHead{}, err
		}
	}
	c.got = 0
	return parseHead(c.head[:])
}

// rest waits until the next request is due, and reports whether there is to be
// one on this connection.
func (c *caller) rest() (bool, error) {
	h, err := c.heads(c.w.next())
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.w.traffic.ctx.Err() == nil, nil
	case err != nil:
		return false, err
	case h.kind != rpcBye:
		return false, fmt.Errorf("rpc: answered with %d, and nothing was asked", h.kind)
	}
	return false, nil
}

// answer reads the head of the answer to a request.
func (c *caller) answer(asked rpcHead) (rpcHead, error) {
	for {
		h, err := c.heads(time.Now().Add(clientPatience))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err == nil && h.kind == rpcBye && !c.bye {
			c.bye = true
			continue
		}
		if err == nil && (h.kind != asked.kind || h.key != asked.key) {
			err = fmt.Errorf("rpc: %d of stream %016x was answered with %d of %016x", asked.kind, asked.key, h.kind, h.key)
		}
		return h, err
	}
}

// ask makes a request, and reads and checks what it asks for. took is how long
// that was, but for a nap.
func (c *caller) ask(h rpcHead) (took time.Duration, err error) {
	request := h.appendTo(room(&c.out, rpcHeadSize+h.size)[:0])
	if h.kind == rpcHash {
		request = request[:rpcHeadSize+h.size]
		h.key.fill(request[rpcHeadSize:], 0)
	}
	c.w.asked.Add(1)
	epoch, begun := c.w.traffic.epoch.Load(), time.Now()
	if err := c.SetWriteDeadline(begun.Add(clientPatience)); err != nil {
		return 0, err
	}
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	back, err := c.answer(h)
	if err != nil {
		return 0, err
	}
	switch h.kind {
	case rpcGet:
		c.heard = 0
		if err := c.hear(h.key, h.size); err != nil {
			return 0, err
		}
	case rpcHash:
		var sum [sha256.Size]byte
		if _, err := io.ReadFull(c, sum[:]); err != nil {
			return 0, err
		}
		if back.size != len(sum) || sum != sha256.Sum256(request[rpcHeadSize:]) {
			return 0, fmt.Errorf("rpc: a wrong hash of stream %016x, %d bytes", uint64(h.key), h.size)
		}
	}
	took = time.Since(begun)
	c.answers++
	c.proven(epoch)
	return took, nil
}

// requests is a client that keeps its connection for some requests of one kind:
// gets and hashes of at most so many bytes, naps of so many milliseconds.
func requests(kind rpcKind, size int) func(*worker) error {
	return func(w *worker) error {
		c, err := w.call()
		if c == nil {
			return err
		}
		for range 1 + w.rnd.IntN(300) {
			more, err := c.rest()
			if err != nil {
				return c.end(err)
			}
			if !more {
				break
			}
			h := rpcHead{kind: kind, size: 1 + w.rnd.IntN(size), key: stream(w.rnd.Uint64())}
			took, err := c.ask(h)
			if err != nil {
				return c.end(err)
			}
			if kind == rpcNap {
				took -= time.Duration(h.size) * time.Millisecond
			}
			w.answeredIn(took)
			if c.bye {
				break
			}
		}
		return c.finish()
	}
}

// finish is that of link: the server may say that it shuts down before it ends
// its output.
func (c *caller) finish() error {
	err := c.CloseWrite()
	if err == nil {
		var h rpcHead
		h, err = c.heads(time.Now().Add(clientPatience))
		if err == nil && h.kind == rpcBye && !c.bye {
			c.bye = true
			h, err = c.heads(time.Now().Add(clientPatience))
		}
		if err == nil {
			err = fmt.Errorf("rpc: answered with %d, and nothing was asked", h.kind)
		}
	}
	if err == io.EOF && c.got == 0 {
		c.w.finished.Add(1)
		return c.Close()
	}
	return c.end(err)
}

// readsSlowly is a client with a small buffer that takes a long answer in small
// parts, some of them so slowly that a restart has to cut them at the end of its
// grace period.
func readsSlowly(w *worker) error {
	if !w.pace() {
		return nil
	}
	const size, part = 1 << 20, 16 << 10
	every := time.Duration(10+w.rnd.IntN(400)) * time.Millisecond
	l, err := w.dial(w.traffic.addrs.RPC, func(_, _ string, raw syscall.RawConn) (err error) {
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10)
		}), err)
	})
	if l == nil {
		return err
	}
	h := rpcHead{kind: rpcGet, size: size, key: stream(w.rnd.Uint64())}
	w.asked.Add(1)
	if _, err := l.Write(h.appendTo(nil)); err != nil {
		return l.end(err)
	}
	c := caller{link: l}
	if _, err := c.answer(h); err != nil {
		return l.end(err)
	}
	for left := size; left > 0; left -= part {
		if !w.wait(time.Now().Add(every)) {
			return l.abort() // with most of the answer unread
		}
		if err := l.hear(h.key, part); err != nil {
			return l.end(err)
		}
	}
	w.answered.Add(1)
	if w.chance(2) {
		return l.abort()
	}
	return c.finish()
}

// sendsSlowly is a client that sends the content of a request in parts of a few
// bytes.
func sendsSlowly(w *worker) error {
	if !w.pace() {
		return nil
	}
	c, err := w.call()
	if c == nil {
		return err
	}
	h := rpcHead{kind: rpcHash, size: 32 + w.rnd.IntN(64), key: stream(w.rnd.Uint64())}
	request := h.appendTo(make([]byte, 0, rpcHeadSize+h.size))[:rpcHeadSize+h.size]
	h.key.fill(request[rpcHeadSize:], 0)
	w.asked.Add(1)
	for sent, n := 0, rpcHeadSize; sent < len(request); n = min(1+w.rnd.IntN(3), len(request)-sent) {
		if _, err := c.Write(request[sent : sent+n]); err != nil {
			return c.link.end(err)
		}
		sent += n
		if !w.wait(time.Now().Add(20 * time.Millisecond)) {
			return c.abort() // with half a request sent
		}
	}
	if _, err := c.answer(h); err != nil {
		return c.link.end(err)
	}
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return c.link.end(err)
	}
	if sum != sha256.Sum256(request[rpcHeadSize:]) {
		return c.link.end(errors.New("rpc: a wrong hash"))
	}
	w.answered.Add(1)
	return c.link.end(nil)
}

// stalls is a client that sends a part of a request and no more: the server's
// deadline has to end that.
func stalls(w *worker) error {
	if !w.pace() {
		return nil
	}
	c, err := w.call()
	if c == nil {
		return err
	}
	h := rpcHead{kind: rpcGet, size: 1, key: stream(w.rnd.Uint64())}
	w.asked.Add(1)
	begun := time.Now()
	if _, err := c.Write(h.appendTo(nil)[:1+w.rnd.IntN(rpcHeadSize-1)]); err != nil {
		return c.link.end(err)
	}
	// At the end of the traffic it waits no longer. It fails on a closed connection.
	hurry := context.AfterFunc(w.traffic.ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	defer hurry()
	back, err := c.heads(begun.Add(clientPatience))
	took := time.Since(begun)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && w.traffic.ctx.Err() != nil:
		return c.abort()
	case err != nil:
		return c.link.end(err)
	case back.kind == rpcBye:
		return c.link.end(nil) // and it gives up
	case back.kind != rpcLate:
		return c.link.end(fmt.Errorf("rpc: half a request was answered with %d", back.kind))
	case took < rpcPatience-500*time.Millisecond:
		return c.link.end(fmt.Errorf("rpc: the deadline of %v has ended after %v", rpcPatience, took))
	}
	w.answeredIn(took - rpcPatience)
	return c.finish()
}

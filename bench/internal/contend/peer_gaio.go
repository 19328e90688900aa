package contend

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/xtaci/gaio"
)

// gaioPeer is gaio.
func gaioPeer() Contender {
	return Contender{
		Name:  "gaio",
		About: "gaio v1.2.24, one watcher and one goroutine in WaitIO, reads into the watcher's shared 1 MiB buffer (no buffer in an idle connection) and writes from pooled copies.",
		Starts: map[Service]Start{
			Echo:   gaioEcho,
			Fanout: gaioFanout,
		},
	}
}

// gaioShared is the size of the watcher's buffer, of which it has three. Past
// its end reads come 16 bytes at a time; the default of 64 KiB is one large
// message.
const gaioShared = 1 << 20

// gaioStart accepts with package net, which turns Nagle's algorithm off, submits
// open's first read for each connection, and calls done for every operation that
// has completed, always on the same goroutine.
func gaioStart(open func(*gaio.Watcher, net.Conn) error, done func(*gaio.Watcher, gaio.OpResult) error) (string, error) {
	return launch("gaio", func(ready func(string)) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		w, err := gaio.NewWatcherSize(gaioShared)
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		ready(ln.Addr().String())
		ended := make(chan error, 2)
		go func() { ended <- gaioWait(w, done) }()
		go func() {
			ended <- acceptEach(ln, func(c net.Conn) {
				if err := open(w, c); err != nil {
					ended <- err
				}
			})
		}()
		return <-ended
	})
}

// gaioWait hands over results until the watcher fails: done's errors are those
// of submitting an operation, which fails only when the watcher is closed.
func gaioWait(w *gaio.Watcher, done func(*gaio.Watcher, gaio.OpResult) error) error {
	for {
		results, err := w.WaitIO()
		if err != nil {
			return err
		}
		for _, r := range results {
			if err := done(w, r); err != nil {
				return err
			}
		}
	}
}

// gaioFree closes the connection of a read or write that failed, unless the
// failure is that this has been done.
func gaioFree(w *gaio.Watcher, r gaio.OpResult) error {
	if errors.Is(r.Error, io.ErrClosedPipe) {
		return nil
	}
	return w.Free(r.Conn)
}

// gaioBuffers are the copies that wait to be written: a read's bytes stay valid
// only until the next WaitIO.
var gaioBuffers = sync.Pool{New: func() any { return new([]byte) }}

// gaioEcho is Echo: a read, then a write of the same bytes, then the next read.
// A write is done when the socket has taken everything.
func gaioEcho() (string, error) {
	open := func(w *gaio.Watcher, c net.Conn) error { return w.Read(nil, c, nil) }
	return gaioStart(open, func(w *gaio.Watcher, r gaio.OpResult) error {
		switch r.Operation {
		case gaio.OpRead:
			if r.Error != nil {
				return gaioFree(w, r)
			}
			out := gaioBuffers.Get().(*[]byte)
			*out = append((*out)[:0], r.Buffer[:r.Size]...)
			return w.Write(out, r.Conn, *out)
		case gaio.OpWrite:
			if out, ok := r.Context.(*[]byte); ok {
				gaioBuffers.Put(out)
			}
			if r.Error != nil {
				return gaioFree(w, r)
			}
			return w.Read(nil, r.Conn, nil)
		}
		return nil // a Free that found nothing to do
	})
}

// gaioMember is the context of a connection's reads in Fanout. Only the
// goroutine of WaitIO uses it.
type gaioMember struct {
	member
	conn   net.Conn
	closed bool
}

// gaioFanout is Fanout. gaio queues the writes of a connection in order and
// finishes each, so the publisher's copy of the messages is shared by all
// subscribers and left to the garbage collector.
func gaioFanout() (string, error) {
	var subs subscribers[*gaioMember]
	open := func(w *gaio.Watcher, c net.Conn) error { return w.Read(&gaioMember{conn: c}, c, nil) }
	return gaioStart(open, func(w *gaio.Watcher, r gaio.OpResult) error {
		if r.Operation != gaio.OpRead {
			return nil // a connection whose write fails ends its read too
		}
		m := r.Context.(*gaioMember)
		if r.Error != nil {
			m.closed = true
			return gaioFree(w, r)
		}
		answer, messages, err := m.input(r.Buffer[:r.Size])
		if err != nil {
			fmt.Fprintln(libraryLog, err)
			m.closed = true
			return w.Free(m.conn)
		}
		if len(answer) > 0 {
			if err := w.Write(nil, m.conn, []byte{m.role}); err != nil {
				return err
			}
			if m.role == 'S' {
				subs.add(m)
			}
		}
		if len(messages) > 0 {
			shared := append([]byte(nil), messages...)
			subs.publish(func(to *gaioMember) error {
				if to.closed {
					return net.ErrClosed
				}
				return w.Write(nil, to.conn, shared)
			})
		}
		return w.Read(m, m.conn, nil)
	})
}

package errnosweep

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/loopback"
	"github.com/stepio-go/stepio/sm"
)

// anyPort is at an address that nobody else sends to.
var anyPort = netip.AddrPortFrom(loopback.Own(), 0)

// pair is two ends of a connection, and where it was accepted.
type pair struct {
	ln        *stepio.TCPListener
	near, far *stepio.TCPConn
}

// open adds the steps that listen, dial and accept.
func (p *pair) open(s *script, edge bool) {
	var dial stepio.Dial
	s.do(func() (err error) {
		if p.ln, err = stepio.ListenTCP(s.loop, anyPort, stepio.ListenOptions{ReusePort: true}); err != nil {
			return err
		}
		s.own(p.ln)
		dial = stepio.DialTCP(s.loop, p.ln.Addr(), stepio.DialOptions{Deadline: s.until})
		s.own(&dial)
		return nil
	})
	s.then(func(t *sm.Task) (sm.Await, error) {
		if a := dial.Step(t); a.Pending() {
			return a, nil
		}
		conn, err := dial.Result()
		if err != nil {
			return sm.Done, err
		}
		p.near = conn
		s.own(conn)
		return sm.Done, nil
	})
	s.then(func(*sm.Task) (a sm.Await, err error) {
		if edge {
			var conns []*stepio.TCPConn
			if conns, err = p.ln.AcceptET(nil); err == stepio.ErrWouldBlock {
				return p.ln.ReadableET(), nil
			} else if err == nil {
				p.far = conns[0]
			}
		} else if p.far, err = p.ln.Accept(); err == stepio.ErrWouldBlock {
			return p.ln.Readable(), nil
		}
		if err != nil {
			return sm.Done, err
		}
		s.own(p.far)
		return sm.Done, nil
	})
}

// send adds the steps that send msg whole.
func send(s *script, c func() *stepio.TCPConn, msg []byte) {
	var out stepio.WriteAll
	s.do(func() error { out.Start(c(), msg); return nil })
	s.then(func(t *sm.Task) (sm.Await, error) {
		if a := out.Step(t); a.Pending() {
			return a, nil
		}
		return sm.Done, out.Err()
	})
}

// receive adds the steps that read want.
func receive(s *script, c func() *stepio.TCPConn, want []byte, edge bool) {
	var got []byte
	s.then(func(t *sm.Task) (sm.Await, error) {
		for len(got) < len(want) {
			read, wait := c().Read, c().Readable
			if edge {
				read, wait = c().ReadET, c().ReadableET
			}
			n, err := read(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return wait(), nil
			}
			if err != nil {
				return sm.Done, err
			}
			got = append(got, t.Scratch()[:n]...)
		}
		if !bytes.Equal(got, want) {
			return sm.Done, fmt.Errorf("%d bytes are not those that were sent", len(got))
		}
		return sm.Done, nil
	})
}

// receiveEnd adds the step that reads the end of input.
func receiveEnd(s *script, c func() *stepio.TCPConn, edge bool) {
	s.then(func(t *sm.Task) (sm.Await, error) {
		n, err := c().Read(t.Scratch())
		switch {
		case err == stepio.ErrWouldBlock && edge:
			return c().ReadableET(), nil
		case err == stepio.ErrWouldBlock:
			return c().Readable(), nil
		case err == io.EOF:
			return sm.Done, nil
		case err != nil:
			return sm.Done, err
		}
		return sm.Done, fmt.Errorf("%d bytes instead of the end", n)
	})
}

// echo is a conversation: three messages there and back, and the end of both
// directions.
func echo(edge bool) func(*script) {
	return func(s *script) {
		var p pair
		p.open(s, edge)
		near, far := func() *stepio.TCPConn { return p.near }, func() *stepio.TCPConn { return p.far }
		for i := range 3 {
			msg := fmt.Appendf(nil, "message %d", i)
			send(s, near, msg)
			receive(s, far, msg, edge)
			send(s, far, msg)
			receive(s, near, msg, edge)
		}
		s.do(func() error { return p.near.CloseWrite() })
		receiveEnd(s, far, edge)
		s.do(func() error { return p.far.CloseWrite() })
		receiveEnd(s, near, edge)
	}
}

// options sets and asks all that a socket lets one.
func options(s *script) {
	var p pair
	p.open(s, false)
	s.do(func() error {
		c := p.near
		for _, set := range []func() error{
			func() error { return c.SetNoDelay(false) },
			func() error { return c.SetKeepAlive(true) },
			func() error { return c.SetKeepAlivePeriod(time.Minute) },
			func() error { return c.SetLinger(-1) },
			func() error { return c.SetReadBuffer(1 << 16) },
			func() error { return c.SetWriteBuffer(1 << 16) },
		} {
			if err := set(); err != nil {
				return err
			}
		}
		if near, far := c.LocalAddr(), p.far.RemoteAddr(); near.IsValid() && far.IsValid() && near != far {
			return fmt.Errorf("%v is not %v", near, far)
		}
		return p.far.CloseRead()
	})
}

// bulk moves 128 KiB through a small buffer.
func bulk(s *script) {
	var p pair
	p.open(s, false)
	s.do(func() error { return p.near.SetWriteBuffer(1 << 12) })
	msg := bytes.Repeat([]byte("0123456789abcdef"), 1<<13)
	var both sm.All
	s.own(&both)
	s.do(func() error {
		in := &script{loop: s.loop, until: s.until}
		var full stepio.ReadFull
		got := make([]byte, len(msg))
		in.do(func() error { full.Start(p.far, got); return nil })
		in.then(func(t *sm.Task) (sm.Await, error) {
			if a := full.Step(t); a.Pending() {
				return a, nil
			}
			if _, err := full.Result(); err != nil {
				return sm.Done, err
			}
			if !bytes.Equal(got, msg) {
				return sm.Done, errors.New("the bytes are not those that were sent")
			}
			return sm.Done, nil
		})
		out := &script{loop: s.loop, until: s.until}
		send(out, func() *stepio.TCPConn { return p.near }, msg)
		both.Start(in, out)
		return nil
	})
	s.then(func(t *sm.Task) (sm.Await, error) {
		if a := both.Step(t); a.Pending() {
			return a, nil
		}
		return sm.Done, both.Err()
	})
}

// graceful closes both ends of a connection with Linger.
func graceful(s *script) {
	var p pair
	p.open(s, false)
	var near, far stepio.Linger
	send(s, func() *stepio.TCPConn { return p.near }, []byte("read by nobody"))
	s.do(func() error {
		near.Start(p.near, s.until)
		far.Start(p.far, s.until)
		return nil
	})
	s.then(func(t *sm.Task) (sm.Await, error) {
		a, b := near.Step(t), far.Step(t)
		if a.Pending() {
			return a, nil
		}
		if b.Pending() {
			return b, nil
		}
		return sm.Done, errors.Join(near.Err(), far.Err())
	})
}

// reset has a connection reset while nobody waits on it, with interest armed.
func reset(s *script) {
	var p pair
	p.open(s, false)
	far := func() *stepio.TCPConn { return p.far }
	s.then(once(func(*sm.Task) (sm.Await, error) { return p.far.Wait(sm.Read | sm.Write), nil }))
	send(s, func() *stepio.TCPConn { return p.near }, []byte("unread"))
	s.do(func() error { return p.near.SetLinger(0) })
	s.do(func() error { return p.near.Close() })
	sleep(s, time.Millisecond)
	s.then(func(t *sm.Task) (sm.Await, error) {
		for {
			_, err := far().Read(t.Scratch())
			switch {
			case err == stepio.ErrWouldBlock:
				return far().Readable(), nil
			case errors.Is(err, syscall.ECONNRESET):
				return sm.Done, nil
			case err != nil:
				return sm.Done, err
			}
		}
	})
}

// once is a step that waits once at most.
func once(f step) step {
	waited := false
	return func(t *sm.Task) (sm.Await, error) {
		if waited {
			return sm.Done, nil
		}
		waited = true
		return f(t)
	}
}

// refused dials a port that nobody listens on.
func refused(s *script) {
	dial := stepio.DialTCP(s.loop, refusing, stepio.DialOptions{Local: anyPort, Deadline: s.until})
	s.own(&dial)
	s.then(func(t *sm.Task) (sm.Await, error) {
		if a := dial.Step(t); a.Pending() {
			return a, nil
		}
		_, err := dial.Result()
		if errors.Is(err, syscall.ECONNREFUSED) {
			return sm.Done, nil
		}
		if err == nil {
			err = errors.New("connected")
		}
		return sm.Done, err
	})
}

// handedOn takes a connection out of the loop and gives it back, and removes
// its descriptor in between.
func handedOn(s *script) {
	var p pair
	p.open(s, false)
	far := func() *stepio.TCPConn { return p.far }
	send(s, func() *stepio.TCPConn { return p.near }, []byte("one"))
	receive(s, far, []byte("one"), false)
	var again *stepio.TCPConn
	s.do(func() error {
		fd, err := p.far.Detach()
		if fd >= 0 {
			again = stepio.NewTCPConn(s.loop, fd)
			s.own(again)
		}
		return err
	})
	s.then(once(func(*sm.Task) (sm.Await, error) { return again.Writable(), nil }))
	s.do(func() error { return s.loop.Remove(again.FD()) })
	send(s, func() *stepio.TCPConn { return again }, []byte("two"))
	receive(s, func() *stepio.TCPConn { return p.near }, []byte("two"), false)
}

package errnosweep

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

var activities = []activity{
	{"echo", false, echo(false)},
	{"echo edge-triggered", true, echo(true)},
	{"options", false, options},
	{"bulk", false, bulk},
	{"graceful close", false, graceful},
	{"reset", false, reset},
	{"refused dial", false, refused},
	{"handed on", false, handedOn},
	{"datagrams", false, datagrams},
	{"batches", false, batches(false)},
	{"batches edge-triggered", true, batches(true)},
	{"timers", false, func(s *script) { sleep(s, time.Millisecond); sleep(s, time.Millisecond) }},
	{"post", false, post},
	{"job", false, job},
	{"adopt", false, adopt},
}

// sleep adds the step that waits for d.
func sleep(s *script, d time.Duration) {
	var when time.Time
	s.then(func(t *sm.Task) (sm.Await, error) {
		if when.IsZero() {
			when = t.Now().Add(d)
		}
		return t.SleepUntil(when), nil
	})
}

// sockets opens a server's socket and a client's, which is connected.
func sockets(s *script) (server, client **stepio.UDPConn) {
	server, client = new(*stepio.UDPConn), new(*stepio.UDPConn)
	s.do(func() (err error) {
		if *server, err = stepio.ListenUDP(s.loop, anyPort, stepio.ListenUDPOptions{ReusePort: true, ReadBuffer: 1 << 16}); err != nil {
			return err
		}
		s.own(*server)
		to := (*server).LocalAddr()
		if !to.IsValid() { // it cannot say why
			if _, err := unix.Getsockname((*server).FD()); err != nil {
				return os.NewSyscallError("getsockname", err)
			}
			to = (*server).LocalAddr()
		}
		if *client, err = stepio.DialUDP(s.loop, to, stepio.DialUDPOptions{Local: anyPort}); err != nil {
			return err
		}
		s.own(*client)
		return nil
	})
	return server, client
}

// datagrams has two of them go there and back.
func datagrams(s *script) {
	server, client := sockets(s)
	var from netip.AddrPort
	for i := range 2 {
		msg := fmt.Sprintf("datagram %d", i)
		s.then(func(*sm.Task) (sm.Await, error) {
			_, err := (*client).Write([]byte(msg))
			return waits(err, (*client).Writable)
		})
		s.then(func(t *sm.Task) (sm.Await, error) {
			n, sender, err := (*server).ReadFrom(t.Scratch())
			if err == nil && string(t.Scratch()[:n]) != msg {
				err = errors.New("another datagram")
			}
			from = sender
			return waits(err, (*server).Readable)
		})
		s.then(func(*sm.Task) (sm.Await, error) {
			_, err := (*server).WriteTo([]byte(msg), from)
			return waits(err, (*server).Writable)
		})
		s.then(func(t *sm.Task) (sm.Await, error) {
			_, err := (*client).Read(t.Scratch())
			return waits(err, (*client).Readable)
		})
	}
}

// waits is a step's answer: what to wait for when an operation would block.
func waits(err error, wait func() sm.Await) (sm.Await, error) {
	if err == stepio.ErrWouldBlock {
		return wait(), nil
	}
	return sm.Done, err
}

// batches has two batches of five datagrams go there.
func batches(edge bool) func(*script) {
	return func(s *script) {
		server, client := sockets(s)
		for range 2 {
			out, in := stepio.NewBatch(5, 16), stepio.NewBatch(8, 16)
			for i := range out {
				out[i].Data = fmt.Append(out[i].Data, "datagram ", i)
			}
			sent, got := 0, 0
			s.then(func(*sm.Task) (sm.Await, error) {
				n, err := (*client).WriteBatch(out[sent:])
				sent += n
				for _, d := range out[:sent] {
					if d.Err != nil {
						return sm.Done, d.Err
					}
				}
				if edge {
					return waits(err, (*client).WritableET)
				}
				return waits(err, (*client).Writable)
			})
			s.then(func(*sm.Task) (sm.Await, error) {
				for got < len(out) {
					read, wait := (*server).ReadBatch, (*server).Readable
					if edge {
						read, wait = (*server).ReadFromET, (*server).ReadableET
					}
					n, err := read(in)
					if err != nil {
						return waits(err, wait)
					}
					for i := range in[:n] {
						if want := fmt.Sprint("datagram ", got+i); string(in[i].Data) != want {
							return sm.Done, fmt.Errorf("%q instead of %q", in[i].Data, want)
						}
					}
					got += n
				}
				return sm.Done, nil
			})
		}
	}
}

// post has another goroutine post a function.
func post(s *script) {
	ran := false
	posted := make(chan error, 1)
	s.then(func(t *sm.Task) (sm.Await, error) {
		w := t.Waker()
		go func() { posted <- s.loop.Post(func() { ran = true; w.Wake() }) }()
		return sm.Done, nil
	}, func(*sm.Task) (sm.Await, error) {
		if !ran {
			return sm.Park, nil
		}
		return sm.Done, <-posted
	})
}

// job has a pool's worker do something.
func job(s *script) {
	pool := stepio.NewPool(1, 1)
	s.own(joined{pool})
	var j stepio.Job[int]
	s.do(func() error { j.Start(pool, func() (int, error) { return 42, nil }); return nil })
	s.then(func(t *sm.Task) (sm.Await, error) {
		if a := j.Step(t); a.Pending() {
			return a, nil
		}
		if v, err := j.Result(); v != 42 {
			return sm.Done, fmt.Errorf("%d, %w", v, err)
		}
		return sm.Done, nil
	})
}

type joined struct{ *stepio.Pool }

// Close stops the pool.
func (j joined) Close() error {
	j.Stop()
	j.Join()
	return nil
}

// adopt takes a connection over from package net. That is dialled on another
// thread; a step that waits for it is no model to follow.
func adopt(s *script) {
	var p pair
	s.do(func() (err error) {
		if p.ln, err = stepio.ListenTCP(s.loop, anyPort, stepio.ListenOptions{}); err == nil {
			s.own(p.ln)
		}
		return err
	})
	s.do(func() (err error) {
		type dialled struct {
			conn net.Conn
			err  error
		}
		made := make(chan dialled)
		go func() {
			conn, err := net.DialTimeout("tcp", p.ln.Addr().String(), patience)
			made <- dialled{conn, err}
		}()
		d := <-made
		if d.err != nil {
			return d.err
		}
		if p.near, err = stepio.Adopt(s.loop, d.conn); err != nil {
			_ = d.conn.Close() // Adopt's error is the one to tell
			return err
		}
		s.own(p.near)
		return nil
	})
	s.then(func(*sm.Task) (a sm.Await, err error) {
		if p.far, err = p.ln.Accept(); err == nil {
			s.own(p.far)
		}
		return waits(err, p.ln.Readable)
	})
	send(s, func() *stepio.TCPConn { return p.near }, []byte("adopted"))
	receive(s, func() *stepio.TCPConn { return p.far }, []byte("adopted"), false)
}

// wakes is how often the probe of wakes wakes its loop.
const wakes = 4

// probeWakes is the probe for what wakes a loop: this thread does nothing else.
func probeWakes() (lines []string) {
	say := func(name string, err error) { lines = append(lines, name+"\t"+describe(err)) }
	before := openDescriptors()
	loop, err := stepio.NewLoop()
	say(lineLoop, err)
	if err != nil {
		return lines
	}
	thread, ended := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		thread <- unix.Gettid()
		ended <- loop.Run()
	}()
	tid := <-thread
	for i := range wakes {
		mark()
		ran := make(chan error, 1)
		awaitWaiting(tid)
		err := loop.Post(func() { ran <- nil })
		if err == nil {
			err = within(ran)
		}
		say(fmt.Sprint("wake ", i+1), err)
	}
	mark()
	awaitWaiting(tid)
	loop.Stop()
	err = within(ended)
	say(lineRun, err)
	if err == nil {
		say(lineClose, loop.Close())
	}
	mark()
	lines = append(lines, fmt.Sprintf("%s\t%d", lineDescriptors, openDescriptors()-before))
	return append(lines, fmt.Sprintf("%s\t%d", lineTasks, wakes))
}

// within is what comes from c, or errPatience. It makes no timer: with one, the
// Go runtime would have a poller, and wake it by writes of its own.
func within(c <-chan error) error {
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		select {
		case err := <-c:
			return err
		default:
		}
	}
	return errPatience
}

// awaitWaiting returns once a thread waits in epoll_pwait: a post has to ring
// then.
func awaitWaiting(tid int) {
	path, waiting := fmt.Sprintf("/proc/self/task/%d/syscall", tid), fmt.Sprint(unix.SYS_EPOLL_PWAIT, " ")
	for end := time.Now().Add(patience); time.Now().Before(end); runtime.Gosched() {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		text := make([]byte, 64)
		n, err := unix.Read(fd, text)
		_ = unix.Close(fd) // it was only read
		if err == nil && strings.HasPrefix(string(text[:n]), waiting) {
			return
		}
	}
}

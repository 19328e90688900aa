//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/stepio-go/stepio/internal/simkernel"
	"github.com/stepio-go/stepio/sm"
)

// The frames of a simulation that have no stream.

// simMetronome yields, and must be stepped in every turn: nobody starves it.
type simMetronome struct {
	s     *sim
	beats int
	last  int
}

func (m *simMetronome) Step(*sm.Task) sm.Await {
	if m.last != 0 && m.s.turn != m.last+1 {
		m.s.problem("a task that was ready in turn %d is stepped in %d", m.last+1, m.s.turn)
	}
	m.last = m.s.turn
	if m.beats--; m.beats < 0 {
		return sm.Done
	}
	return sm.Yield
}

// simSleeper sleeps some times.
type simSleeper struct {
	s    *sim
	naps int
	when time.Time
}

func (n *simSleeper) Step(t *sm.Task) sm.Await {
	for {
		if !n.when.IsZero() {
			if a := t.SleepUntil(n.when); a.Pending() {
				return a
			}
			n.naps--
		}
		if n.naps == 0 {
			return sm.Done
		}
		n.when = t.Now().Add(time.Duration(n.s.rnd.IntN(1 << n.s.rnd.IntN(34))))
	}
}

// simJoiner starts tasks and waits for each. Some it destroys itself, after it has
// said that it waits and before its step returns.
type simJoiner struct {
	s      *sim
	rounds int
	child  *simWatch
}

func (j *simJoiner) Step(t *sm.Task) sm.Await {
	for {
		if j.child == nil {
			if j.rounds--; j.rounds < 0 {
				return sm.Done
			}
			j.child = j.s.add(j.s.spawn("joiner's sleeper", &simSleeper{s: j.s, naps: 1}))
		}
		if a := t.Join(j.child.task); a.Pending() {
			if j.s.rnd.IntN(4) == 0 {
				j.child.task.Destroy()
			}
			return a
		}
		if err := j.child.task.Err(); err != nil && err != sm.ErrDestroyed {
			j.s.problem("joiner's sleeper: %v", err)
		}
		j.child = nil
	}
}

func (j *simJoiner) Close() error {
	if j.child != nil {
		j.child.task.Destroy()
	}
	return nil
}

// simJobs counts the results of jobs.
type simJobs struct{ done, taken, dropped int }

// simJob has a pool compute, beside a sleeper that may be faster.
type simJob struct {
	s      *sim
	rounds int
	race   sm.Any
	work   *simWork
	on     bool
}

func (j *simJob) Step(t *sm.Task) sm.Await {
	for {
		if j.on {
			if a := j.race.Step(t); a.Pending() {
				return a
			}
			j.on = false
			if j.race.Winner() == 1 {
				j.s.k.Count(simkernel.AbandonedJob)
			}
			if err := j.race.Err(); err != nil && !j.s.broken() {
				j.s.problem("job: %v", err)
			}
		}
		if j.rounds == 0 {
			return sm.Done
		}
		j.rounds--
		j.on = true
		j.work = &simWork{s: j.s, in: j.rounds}
		nap := &simSleeper{s: j.s, naps: 1}
		j.race.Start(j.s.add(j.s.watch("job's work", j.work)), j.s.add(j.s.watch("job's sleeper", nap)))
	}
}

func (j *simJob) Close() error { return j.race.Close() }

// simWork is a job.
type simWork struct {
	s   *sim
	in  int
	job Job[int]
	on  bool
}

func (w *simWork) Step(t *sm.Task) sm.Await {
	if !w.on {
		w.on = true
		w.job.Drop = func(int) { w.s.jobs.dropped++ }
		w.job.Start(w.s.pool, func() (int, error) {
			w.s.jobs.done++
			return 2 * w.in, nil
		})
	}
	if a := w.job.Step(t); a.Pending() {
		return a
	}
	w.s.jobs.taken++
	if out, err := w.job.Result(); err != nil || out != 2*w.in {
		w.s.problem("job of %d: %d, %v", w.in, out, err)
	}
	return sm.Done
}

func (w *simWork) Close() error { return w.job.Close() }

// simDatagramServer sends back what comes. Several serve one socket.
type simDatagramServer struct {
	s    *sim
	conn *UDPConn
	edge bool
	back []Datagram // to be sent
	room []Datagram
}

func (d *simDatagramServer) Step(*sm.Task) sm.Await {
	if d.room == nil {
		d.room = NewBatch(1+d.s.rnd.IntN(4), 64)
	}
	for {
		for len(d.back) > 0 {
			n, err := d.conn.WriteBatch(d.back)
			d.back = d.back[n:]
			if err == ErrWouldBlock {
				return d.wait(sm.Write)
			}
			if err != nil {
				return d.failed(err)
			}
		}
		n, err := d.read()
		if err == ErrWouldBlock {
			return d.wait(sm.Read)
		}
		if err != nil {
			return d.failed(err)
		}
		d.back = d.room[:n]
	}
}

func (d *simDatagramServer) read() (int, error) {
	if d.edge {
		return d.conn.ReadFromET(d.room)
	}
	return d.conn.ReadBatch(d.room)
}

func (d *simDatagramServer) wait(dirs sm.Dir) sm.Await {
	if d.edge {
		return d.conn.WaitET(dirs)
	}
	return d.conn.Wait(dirs)
}

func (d *simDatagramServer) failed(err error) sm.Await {
	if !d.s.broken() {
		d.s.problem("datagram server: %v", err)
	}
	return sm.Done
}

func (d *simDatagramServer) Close() error { return d.conn.Close() }

// simDatagramClient sends questions and takes an answer to each, or asks again.
type simDatagramClient struct {
	s     *sim
	id    byte
	conn  *UDPConn
	left  int
	tries int
	until time.Time // the end of waiting for an answer
	asked bool
}

const maxSimTries = 20

func (d *simDatagramClient) Step(t *sm.Task) sm.Await {
	if d.conn == nil {
		conn, err := DialUDP(d.s.Loop, d.s.udpAt, DialUDPOptions{})
		if err != nil { // for lack of descriptors
			return sm.Done
		}
		d.conn = conn
	}
	for d.left > 0 && d.tries < maxSimTries {
		if !d.asked {
			n, err := d.conn.Write(d.message(d.left))
			switch {
			case err == ErrWouldBlock:
				return d.conn.Writable()
			case errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ECONNREFUSED):
			case err != nil || n != d.length(d.left):
				return d.failed(fmt.Errorf("write of %d: %d, %w", d.length(d.left), n, err))
			}
			d.asked = true
			d.until = t.Now().Add(time.Duration(1+d.s.rnd.IntN(30)) * time.Millisecond)
		}
		if err := t.WaitErr(); errors.Is(err, os.ErrDeadlineExceeded) && t.Now().Before(d.until) {
			d.s.problem("datagram client: a deadline passes early")
		}
		n, err := d.conn.Read(t.Scratch())
		switch {
		case err == ErrWouldBlock && t.Now().Before(d.until):
			return d.conn.Readable().By(d.until)
		case err == ErrWouldBlock:
			d.asked = false
			d.tries++
		case errors.Is(err, syscall.ECONNREFUSED):
		case err != nil:
			return d.failed(err)
		default:
			d.answer(t.Scratch()[:n])
		}
	}
	return sm.Done
}

// answer checks what has come: an answer to this question, or to an earlier one.
func (d *simDatagramClient) answer(p []byte) {
	if len(p) < 2 || p[0] != d.id || int(p[1]) < d.left || string(p) != string(d.message(int(p[1]))) {
		d.s.problem("datagram client %d asked %d and got %v", d.id, d.left, p)
		return
	}
	if int(p[1]) == d.left {
		d.left--
		d.asked = false
	}
}

func (d *simDatagramClient) length(question int) int { return 2 + question*7%40 }

func (d *simDatagramClient) message(question int) []byte {
	p := simBytes(make([]byte, d.length(question)), int(d.id), question)
	p[0], p[1] = d.id, byte(question)
	return p
}

func (d *simDatagramClient) failed(err error) sm.Await {
	if !d.s.broken() {
		d.s.problem("datagram client: %v", err)
	}
	return sm.Done
}

func (d *simDatagramClient) Close() error { return d.conn.Close() }

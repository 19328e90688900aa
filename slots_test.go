//go:build linux || darwin

package stepio

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// drain is a task that reads and throws away what comes, and counts it.
func (w *world) drain(c *TCPConn, got *int) *fake {
	return w.spawn(func(task *sm.Task) sm.Await {
		for {
			n, err := c.Read(task.Scratch())
			*got += n
			if err == ErrWouldBlock {
				return c.Readable()
			}
			if err != nil {
				return sm.Done
			}
		}
	})
}

// The steady state of an echo is one read and one write a request: nothing is
// registered again, and no read finds nothing.
func TestDefectAnAwaitCostsNoRegistration(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	w.Spawn(&echoFrame{conn: c})
	w.turns(2)
	peer.send([]byte("first"))
	w.until("echo", func() bool { return w.faults.count(callWrite) == 1 })
	w.turns(1)
	registrations, reads, waits := w.faults.registrations(), w.faults.count(callRead), 0
	const requests = 100
	for range requests {
		before := w.faults.count(callWrite)
		peer.send([]byte("ping"))
		arrived(c)
		waits += w.faults.during(func() {
			w.until("echo", func() bool { return w.faults.count(callWrite) > before })
		}, callPollWait)
	}
	assert.Equal(t, registrations, w.faults.registrations(), "registrations")
	assert.Equal(t, requests, w.faults.count(callRead)-reads, "reads")
	assert.Equal(t, requests, waits, "waits")
	assert.Equal(t, "first", string(peer.recv(5)))
	assert.Len(t, peer.recv(4*requests), 4*requests)
}

// bothRegistrations runs a test on connections that are latched, and on others.
func bothRegistrations(t *testing.T, run func(t *testing.T, w *world)) {
	for name, latches := range map[string]bool{"latched": true, "level-triggered": false} {
		t.Run(name, func(t *testing.T) {
			w := newFaultyLoop(t)
			w.latches = latches
			run(t, w)
		})
	}
}

func TestSlotInterestWithoutAWaiterIsDisarmedLazily(t *testing.T) {
	bothRegistrations(t, func(t *testing.T, w *world) {
		c, peer := w.pair()
		goOn := false
		f := w.spawn(func(task *sm.Task) sm.Await {
			if task.Ready() == sm.Read && !goOn {
				return sm.Park // busy with something else
			}
			if !goOn {
				return c.Readable()
			}
			_, err := c.Read(task.Scratch())
			assert.NoError(t, err)
			return sm.Done
		})
		w.turns(1)
		require.Equal(t, 1, w.faults.count(callPollAdd))
		peer.send([]byte("x"))
		arrived(c)
		w.turns(1)
		assert.Equal(t, 2, f.steps)
		assert.Zero(t, w.faults.count(callPollModify), "not before an event finds nobody")
		if w.latches {
			assert.Zero(t, w.faults.during(func() { w.turns(5) }, callPollModify), "and none does")
			peer.send([]byte("y"))
		}
		w.turns(1)
		assert.Equal(t, 1, w.faults.count(callPollModify), "now it has")
		peer.send([]byte("z"))
		assert.Zero(t, w.faults.during(func() { w.turns(5) }, callPollModify), "once")
		waits := w.faults.during(func() { w.idle(20 * time.Millisecond) }, callPollWait)
		assert.Less(t, waits, 10, "the loop does not spin")
		goOn = true
		f.task.Waker().Wake()
		w.ended(f.task)
	})
}

func TestSlotDisarmedDirectionIsArmedAgain(t *testing.T) {
	bothRegistrations(t, func(t *testing.T, w *world) {
		c, peer := w.pair()
		peer.send([]byte("x"))
		arrived(c)
		steps := 0
		f := w.spawn(func(task *sm.Task) sm.Await {
			steps++
			switch steps {
			case 1:
				return c.Readable()
			case 2:
				if w.latches {
					peer.send([]byte("y"))
				}
				return pause(task, 5*time.Millisecond)
			case 3:
				return c.Readable() // all is still there
			}
			assert.Equal(t, sm.Read, task.Ready())
			return sm.Done
		})
		w.ended(f.task)
		assert.Equal(t, 2, w.faults.count(callPollModify), "disarmed, armed")
	})
}

// An event says that there is something, and the read that follows that there is
// nothing: the wait after that has the kernel look again.
func TestSlotReadThatContradictsItsEventIsNotBelieved(t *testing.T) {
	bothRegistrations(t, func(t *testing.T, w *world) {
		c, peer := w.pair()
		peer.send([]byte("x"))
		arrived(c)
		w.faults.fail(callRead, unix.EAGAIN)
		waited, reads := false, 0
		f := w.spawn(func(task *sm.Task) sm.Await {
			if !waited {
				waited = true
				return c.Readable()
			}
			reads++
			if _, err := c.Read(task.Scratch()); err == ErrWouldBlock {
				return c.Readable()
			}
			return sm.Done
		})
		w.ended(f.task)
		assert.Equal(t, 2, reads)
	})
}

// A write that contradicts its event, likewise.
func TestSlotWriteThatContradictsItsEventIsNotBelieved(t *testing.T) {
	bothRegistrations(t, func(t *testing.T, w *world) {
		c, _ := w.pair()
		w.faults.fail(callWrite, unix.EAGAIN)
		waited, writes := false, 0
		f := w.spawn(func(*sm.Task) sm.Await {
			if !waited {
				waited = true
				return c.Writable()
			}
			writes++
			if _, err := c.Write([]byte("x")); err == ErrWouldBlock {
				return c.Writable()
			}
			return sm.Done
		})
		w.ended(f.task)
		assert.Equal(t, 2, writes)
	})
}

// Who has the descriptor may do what its slot does not know of: see unlatch.
func TestSlotOfAConnectionThatIsGivenAwayIsLatchedNoLonger(t *testing.T) {
	w := newFaultyLoop(t)
	if !w.latches {
		t.Skip("this poller latches nothing")
	}
	c, peer := w.pair()
	steps := 0
	f := w.spawn(func(*sm.Task) sm.Await {
		if steps++; steps < 3 {
			return c.Readable()
		}
		return sm.Done
	})
	w.turns(1)
	w.faults.fail(callPollModify, unix.ENOMEM)
	_, err := c.SyscallConn()
	assert.ErrorIs(t, err, unix.ENOMEM)
	_, err = c.SyscallConn()
	require.NoError(t, err)
	peer.send([]byte("x"))
	modifies := w.faults.during(func() { w.ended(f.task) }, callPollModify)
	assert.Zero(t, modifies, "what is there is reported again without being asked for")
	_, err = c.SyscallConn()
	assert.NoError(t, err)
}

// A connection may outlive its loop, whose epoll's number another has by then.
func TestSlotOfAClosedLoopTouchesNoPoller(t *testing.T) {
	a := newTestLoop(t)
	c, peer := a.pair()
	a.spawn(func(*sm.Task) sm.Await { return c.Readable() })
	a.turns(2)
	require.NoError(t, a.Close())
	b := newTestLoop(t)
	_, err := c.SyscallConn()
	assert.NoError(t, err)
	peer.send([]byte("x"))
	arrived(c)
	n, err := b.poller.wait(b.events, 0)
	require.NoError(t, err)
	assert.Zero(t, n, "b hears of a's connection")
}

// pause waits for a time from now.
func pause(task *sm.Task, d time.Duration) sm.Await { return sm.Park.Until(task.Now().Add(d)) }

// A hang-up can't be masked: a reset while nobody waits must not spin the loop,
// and the next wait finds it.
func TestTrapResetWhileItsTaskIsParked(t *testing.T) {
	for _, c := range []struct {
		name string
		wait func(*TCPConn) sm.Await
	}{
		{"level-triggered", (*TCPConn).Readable},
		{"edge-triggered", (*TCPConn).ReadableET},
		{"level-triggered, writing", (*TCPConn).Writable},
		{"edge-triggered, writing", (*TCPConn).WritableET},
		{"level-triggered, both", func(c *TCPConn) sm.Await { return c.Wait(sm.Read | sm.Write) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newFaultyLoop(t)
			conn, peer := w.pair()
			var waitErr, readErr error
			steps := 0
			f := w.spawn(func(task *sm.Task) sm.Await {
				steps++
				switch steps {
				case 1: // registers the descriptor; a wake ends the wait
					return c.wait(conn)
				case 2:
					return sm.Park
				case 3:
					return c.wait(conn)
				}
				waitErr = task.WaitErr()
				_, readErr = conn.Read(task.Scratch())
				return sm.Done
			})
			w.turns(1)
			f.task.Waker().Wake()
			w.until("parked", func() bool { return steps == 2 })
			w.turns(3)
			peer.reset()
			assert.True(t, pollFD(conn.FD(), unix.POLLIN, patience))
			w.turns(3)
			assert.Less(t, w.faults.during(func() { w.idle(20 * time.Millisecond) }, callPollWait), 10, "the loop spins")
			f.task.Waker().Wake()
			w.ended(f.task)
			assert.NoError(t, waitErr)
			assert.ErrorIs(t, readErr, syscall.ECONNRESET)
		})
	}
}

// What one task of a batch closes and opens again is not what the batch's other
// events are about.
func TestTrapFDReuseWithinABatch(t *testing.T) {
	w := newFaultyLoop(t)
	a, peerA := w.pair()
	b, peerB := w.pair()
	var fresh *TCPConn
	var freshPeer *peer
	freshSteps := 0
	var freshTask *sm.Task
	w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() == 0 {
			return a.Readable()
		}
		number := b.FD()
		require.NoError(t, b.Close())
		fresh, freshPeer = w.pair()
		require.Equal(t, number, min(fresh.FD(), freshPeer.fd), "the number is used again")
		freshTask = w.Spawn(&fake{step: func(task *sm.Task) sm.Await {
			freshSteps++
			if task.Ready() != 0 {
				return sm.Done
			}
			return fresh.Readable()
		}})
		return sm.Done
	})
	var bErr error
	bTask := w.spawn(func(task *sm.Task) sm.Await {
		if bErr = task.WaitErr(); bErr != nil {
			return sm.Done
		}
		if task.Ready() != 0 {
			_, bErr = b.Read(task.Scratch())
			return sm.Done
		}
		return b.Readable()
	})
	w.turns(1)
	peerA.send([]byte("a"))
	peerB.send([]byte("b"))
	arrived(a)
	arrived(b)
	// Both are in one batch, a first; and b's event comes once more, in the next.
	var late []event
	w.faults.onWait = func(events []event) []event {
		if len(late) > 0 {
			events = append(events, late...)
			late = nil
		}
		for _, ev := range events {
			if int(int32(uint32(ev.key))) == b.FD() {
				late = append(late, ev)
			}
		}
		return events
	}
	w.ended(bTask.task)
	assert.ErrorIs(t, bErr, net.ErrClosed)
	w.faults.onWait = nil
	w.turns(2)
	assert.Equal(t, 1, freshSteps, "the new connection has seen nothing")
	freshPeer.send([]byte("c"))
	w.ended(freshTask)
	assert.Equal(t, 2, freshSteps)
}

// An event that the kernel reports after its descriptor was closed, because a
// duplicate kept the file open, is not taken for its successor's.
func TestSlotStaleEventIsDiscarded(t *testing.T) {
	w := newFaultyLoop(t)
	r, far := socketPair(t)
	o := &once{await: w.Readable(r)}
	task := w.Spawn(o)
	w.turns(1)
	stale := event{key: key(r, w.slots.get(r).gen), ready: readyRead | readyHangup}
	require.NoError(t, w.Remove(r))
	w.ended(task)
	assert.Equal(t, ErrRemoved, o.waitErr)

	o = &once{await: w.Readable(r)}
	task = w.Spawn(o)
	w.turns(1)
	w.faults.onWait = func(events []event) []event { return append(events, stale) }
	w.turns(3)
	assert.False(t, task.Ended())
	w.faults.onWait = nil
	newUnownedPeer(t, far).send([]byte("x"))
	w.ended(task)
	assert.Equal(t, sm.Read, o.ready)
	require.NoError(t, w.Remove(r))
}

func TestTrapEventAndTimeoutOfOneTaskInOneBatch(t *testing.T) {
	w := newTestLoop(t)
	c, peer := w.pair()
	deadline := time.Now().Add(5 * time.Millisecond)
	o := &once{await: c.Readable().By(deadline)}
	task := w.Spawn(o)
	w.turns(1)
	peer.send([]byte("x"))
	arrived(c)
	for !time.Now().After(deadline.Add(2 * time.Millisecond)) {
		// both are due when the loop looks next
	}
	w.ended(task)
	assert.Equal(t, 2, o.steps, "one step for both")
	assert.Equal(t, sm.Read, o.ready)
	assert.NoError(t, o.waitErr, "the event counts")
	w.turns(3)
	assert.Equal(t, 2, o.steps)
}

// Data and end of input in one edge leave no second edge: a short read must not
// be taken for the last thing there was.
func TestTrapDataAndFINInOneEdge(t *testing.T) {
	for _, c := range []struct {
		name string
		wait func(*TCPConn) sm.Await
		read func(*TCPConn, []byte) (int, error)
	}{
		{"Read, edge-triggered", (*TCPConn).ReadableET, (*TCPConn).Read},
		{"ReadET", (*TCPConn).ReadableET, (*TCPConn).ReadET},
		{"Read, level-triggered", (*TCPConn).Readable, (*TCPConn).Read},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			var got []byte
			var end error
			f := w.spawn(func(task *sm.Task) sm.Await {
				for {
					n, err := c.read(conn, task.Scratch())
					got = append(got, task.Scratch()[:n]...)
					if err == ErrWouldBlock {
						return c.wait(conn)
					}
					if err != nil {
						end = err
						return sm.Done
					}
				}
			})
			w.turns(1) // registered, empty
			peer.send([]byte("last words"))
			peer.closeWrite()
			pollFD(conn.FD(), pollEnd, patience) // both have arrived before the loop looks
			w.ended(f.task)
			assert.Equal(t, "last words", string(got))
			assert.Equal(t, io.EOF, end)
			assert.LessOrEqual(t, f.steps, 3)
		})
	}
}

// A frame that waits again after a short read, without having been told that
// the next would block, finds the end that came with the data.
func TestSlotEndAfterAShortReadOfItsEdge(t *testing.T) {
	w := newTestLoop(t)
	conn, peer := w.pair()
	var got []byte
	var end error
	f := w.spawn(func(task *sm.Task) sm.Await {
		n, err := conn.Read(task.Scratch())
		got = append(got, task.Scratch()[:n]...)
		if err == nil || err == ErrWouldBlock {
			return conn.ReadableET()
		}
		end = err
		return sm.Done
	})
	w.turns(1)
	peer.send([]byte("last words"))
	peer.closeWrite()
	pollFD(conn.FD(), pollEnd, patience)
	w.ended(f.task)
	assert.Equal(t, "last words", string(got))
	assert.Equal(t, io.EOF, end)
}

// The FIN comes after the loop has seen the data's edge, and before the read.
func TestSlotEndBetweenEdgeAndRead(t *testing.T) {
	w := newTestLoop(t)
	conn, peer := w.pair()
	var end error
	f := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() != 0 && end == nil {
			peer.closeWrite()
			pollFD(conn.FD(), pollEnd, patience)
			end = ErrWouldBlock
		}
		for {
			_, err := conn.Read(task.Scratch())
			if err == ErrWouldBlock {
				return conn.ReadableET()
			}
			if err != nil {
				end = err
				return sm.Done
			}
		}
	})
	w.turns(1)
	peer.send([]byte("x"))
	w.ended(f.task)
	assert.Equal(t, io.EOF, end)
}

// A task that an edge has resumed may be destroyed before it runs: whoever waits
// next, or waits already, finds the edge, which the kernel does not make again.
func TestSlotEdgeOfATaskDestroyedBeforeItRuns(t *testing.T) {
	for _, waiting := range []bool{false, true} {
		t.Run(fmt.Sprintf("the next one waits already: %t", waiting), func(t *testing.T) {
			w := newTestLoop(t)
			c, peer := w.pair()
			first := w.spawn(func(*sm.Task) sm.Await { return c.ReadableET() })
			w.turns(1)
			peer.send([]byte("x"))
			arrived(c)
			// These are ready before the event makes the first one so.
			next := &once{await: c.ReadableET()}
			tasks := []*sm.Task{}
			if waiting {
				tasks = append(tasks, w.Spawn(next))
			}
			tasks = append(tasks, w.spawn(func(*sm.Task) sm.Await {
				first.task.Destroy()
				return sm.Done
			}).task)
			w.turns(1)
			assert.Equal(t, 1, first.steps)
			if !waiting {
				tasks = append(tasks, w.Spawn(next))
			}
			w.ended(tasks...)
			assert.Equal(t, sm.Read, next.ready)
		})
	}
}

func TestTrapEdgeWithoutAWaiter(t *testing.T) {
	w := newFaultyLoop(t)
	c, peer := w.pair()
	var got []byte
	steps := 0
	f := w.spawn(func(task *sm.Task) sm.Await {
		steps++
		switch steps {
		case 1:
			return c.ReadableET()
		case 2: // the first edge; nothing is read, and the next comes while it sleeps
			n, err := c.ReadET(task.Scratch())
			require.NoError(t, err)
			got = append(got, task.Scratch()[:n]...)
			return sm.Park
		case 3:
			return c.ReadableET()
		}
		n, err := c.ReadET(task.Scratch())
		require.NoError(t, err)
		got = append(got, task.Scratch()[:n]...)
		return sm.Done
	})
	w.turns(1)
	peer.send([]byte("a"))
	w.until("the first edge", func() bool { return steps == 2 })
	peer.send([]byte("b"))
	arrived(c)
	w.turns(3)
	assert.Equal(t, 2, steps)
	assert.NotZero(t, w.slots.get(c.FD()).edges&sm.Read, "remembered")
	registrations := w.faults.registrations()
	f.task.Waker().Wake()
	w.ended(f.task)
	assert.Equal(t, "ab", string(got))
	assert.Equal(t, registrations, w.faults.registrations(), "and it cost no syscall")
}

// A descriptor that was closed without the loop being told leaves nothing to the next
// one of its number, also when it was in the poller no more.
func TestClaimForgetsWhatTheLastDescriptorWas(t *testing.T) {
	w := newTestLoop(t)
	conn, _ := w.pair()
	s := w.slots.get(conn.FD())
	fresh := s.flags
	require.Zero(t, fresh&slotRegistered)
	s.flags |= slotRestless | slotEdge | slotTaken | slotDrained
	s.edges = sm.Read
	w.claim(conn.FD(), false)
	assert.Zero(t, s.flags)
	assert.Zero(t, s.edges)
	s.flags = fresh
}

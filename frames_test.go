//go:build linux || darwin

package stepio

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestReadFull(t *testing.T) {
	for _, c := range []struct {
		name string
		send []string // each after the one before was read; then the end of input
		want string
		err  error
	}{
		{"all at once", []string{"0123456789"}, "0123456789", nil},
		{"in pieces", []string{"0123", "4567", "89"}, "0123456789", nil},
		{"with more behind it", []string{"0123456789abc"}, "0123456789", nil},
		{"cut short", []string{"0123"}, "0123", io.ErrUnexpectedEOF},
		{"nothing", nil, "", io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			var r ReadFull
			buf := make([]byte, 10)
			r.Start(conn, buf)
			task := w.Spawn(script(r.Step))
			w.turns(1)
			sent := 0
			for _, s := range c.send {
				peer.send([]byte(s))
				sent += len(s)
				w.until("read", func() bool { return r.n == min(sent, len(buf)) })
			}
			peer.closeWrite()
			w.ended(task)
			n, err := r.Result()
			assert.Equal(t, c.want, string(buf[:n]))
			assert.Equal(t, c.err, err)
			assert.Equal(t, c.err, r.Err())
			state, _ := r.Inspect()
			assert.Empty(t, state, "over")
		})
	}
	t.Run("of no bytes is done at once", func(t *testing.T) {
		w := newTestLoop(t)
		conn, _ := w.pair()
		var r ReadFull
		r.Start(conn, nil)
		w.ended(w.Spawn(script(r.Step)))
		n, err := r.Result()
		assert.Zero(t, n)
		assert.NoError(t, err)
	})
}

func TestCopyMovesEverything(t *testing.T) {
	for _, shrunk := range []bool{false, true} {
		w := newFaultyLoop(t)
		src, from := w.pair()
		dst, to := w.pair()
		if shrunk {
			shrink(dst, to)
			w.faults.maxWrite = 999
		}
		var c Copy
		c.Start(dst, src)
		task := w.Spawn(&fake{step: c.Step, close: c.Close})
		all := pattern(1 << 20)
		var got []byte
		w.alongside(func() {
			sent := make(chan struct{})
			go func() { defer close(sent); from.send(all); from.closeWrite() }()
			got = to.recv(len(all))
			<-sent
		})
		w.ended(task)
		assert.True(t, bytes.Equal(all, got))
		n, err := c.Result()
		assert.NoError(t, err)
		assert.EqualValues(t, len(all), n)
		assert.GreaterOrEqual(t, src.FD(), 0, "neither connection is closed")
		assert.GreaterOrEqual(t, dst.FD(), 0)
		_, err = dst.Write([]byte("x"))
		assert.NoError(t, err, "nor half-closed")
	}
}

// While dst takes nothing, src is not read: what the frame holds is bounded, and
// the sender is stopped by the kernel's buffers.
func TestCopyBackpressure(t *testing.T) {
	w := newFaultyLoop(t)
	src, from := w.pair()
	dst, to := w.pair()
	var c Copy
	c.Start(dst, src)
	task := w.Spawn(&fake{step: c.Step, close: c.Close})
	sent := 0
	for {
		n := from.fill()
		sent += n
		w.settle()
		require.Less(t, sent, 256<<20, "the sender is stopped")
		if n == 0 {
			break
		}
	}
	assert.Equal(t, copyWriting, c.state)
	assert.LessOrEqual(t, c.out.Pending(), sm.ScratchSize)
	reads := w.faults.count(callRead)
	w.turns(10)
	assert.Equal(t, reads, w.faults.count(callRead), "src is not read")
	var got int
	w.alongside(func() {
		from.closeWrite()
		got = len(to.recv(sent))
	})
	w.ended(task)
	assert.Equal(t, sent, got)
	assert.Nil(t, c.out.rest, "what was held is given back")
}

func TestCopyEndsWithAnError(t *testing.T) {
	t.Run("of the destination", func(t *testing.T) {
		w := newTestLoop(t)
		src, from := w.pair()
		dst, to := w.pair()
		var c Copy
		c.Start(dst, src)
		task := w.Spawn(&fake{step: c.Step, close: c.Close})
		w.turns(1)
		to.reset()
		arrived(dst)
		from.send([]byte("x"))
		w.ended(task)
		assert.True(t, isReset(c.Err()), "%v", c.Err())
	})
	t.Run("and Close drops what it holds", func(t *testing.T) {
		w := newTestLoop(t)
		src, from := w.pair()
		dst, _ := w.pair()
		var c Copy
		c.Start(dst, src)
		task := w.Spawn(&fake{step: c.Step, close: c.Close})
		for from.fill() > 0 {
			w.settle()
		}
		require.Positive(t, c.out.Pending())
		task.Destroy()
		assert.Nil(t, c.out.rest)
	})
}

// Two copies make a proxy. The original ended both directions at the first end
// of input.
func TestDefectProxyEndsBothDirectionsAtOnce(t *testing.T) {
	w := newTestLoop(t)
	client, clientPeer := w.pair()
	server, serverPeer := w.pair()
	oneWay := func(dst, src *TCPConn) sm.Frame {
		c := new(Copy)
		c.Start(dst, src)
		return script(c.Step, func(*sm.Task) sm.Await { _ = dst.CloseWrite(); return sm.Done })
	}
	there, back := w.Spawn(oneWay(server, client)), w.Spawn(oneWay(client, server))
	clientPeer.send([]byte("question"))
	clientPeer.closeWrite()
	w.ended(there)
	question, err := serverPeer.recvAll()
	require.NoError(t, err)
	assert.Equal(t, "question", string(question))
	assert.False(t, back.Ended(), "the answer is still to come")
	answer := pattern(1 << 20)
	var got []byte
	w.alongside(func() {
		sent := make(chan struct{})
		go func() { defer close(sent); serverPeer.send(answer); serverPeer.closeWrite() }()
		got, err = clientPeer.recvAll()
		<-sent
	})
	w.ended(back)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(answer, got))
}

// lines is a protocol of lines that are answered in upper case: the order of
// Input's doc, parse first, read when no whole message is left.
func (w *world) lines(c *TCPConn, in *Input, handled *[]string, end *error) *fake {
	return w.spawn(func(task *sm.Task) sm.Await {
		for {
			if i := bytes.IndexByte(in.Bytes(), '\n'); i >= 0 {
				*handled = append(*handled, string(in.Bytes()[:i]))
				in.Discard(i + 1)
				continue
			}
			if err := in.More(task, c); err == ErrWouldBlock {
				return c.Readable()
			} else if err != nil {
				*end = err
				return sm.Done
			}
		}
	})
}

func TestInputCarriesWhatIsNotWhole(t *testing.T) {
	long := string(bytes.Repeat([]byte("long "), 50_000))
	for _, c := range []struct {
		name string
		send []string
		want []string
		left string
	}{
		{"one message", []string{"a\n"}, []string{"a"}, ""},
		{"a pipeline in one read", []string{"a\nb\nc\n"}, []string{"a", "b", "c"}, ""},
		{"a message in pieces", []string{"a", "b", "c\n"}, []string{"abc"}, ""},
		{"a pipeline with a piece behind it", []string{"a\nb\nc"}, []string{"a", "b"}, "c"},
		{"a piece, then the rest and more", []string{"a\nb", "b\nc\n"}, []string{"a", "bb", "c"}, ""},
		{"a message longer than any buffer that is kept", []string{long + "\n" + "x"}, []string{long}, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestLoop(t)
			conn, peer := w.pair()
			var in Input
			var handled []string
			var end error
			f := w.lines(conn, &in, &handled, &end)
			w.alongside(func() {
				for _, s := range c.send {
					peer.send([]byte(s))
				}
				peer.closeWrite()
			})
			w.ended(f.task)
			assert.Equal(t, len(c.want), len(handled))
			for i := range min(len(handled), len(c.want)) {
				assert.True(t, c.want[i] == handled[i], "message %d", i)
			}
			assert.Equal(t, io.EOF, end)
			assert.Equal(t, c.left, string(in.Bytes()))
			require.NoError(t, in.Close())
			assert.Nil(t, in.buf, "no memory while it is empty")
			assert.Nil(t, in.Bytes())
		})
	}
}

func TestInputGivesItsMemoryBack(t *testing.T) {
	w := newTestLoop(t)
	c, _ := w.pair()
	var in Input
	in.Put(c, nil)
	assert.Nil(t, in.buf)
	in.Put(c, []byte("0123456789"))
	first := in.buf
	assert.Equal(t, bufferSizes[0], cap(first.data))
	in.Discard(4)
	assert.Equal(t, "456789", string(in.Bytes()))
	in.Discard(6)
	assert.Nil(t, in.buf)
	assert.Len(t, w.spares.free[0], 1, "kept by the loop")
	in.Put(c, []byte("again"))
	assert.Same(t, first, in.buf, "and used again")
	assert.Equal(t, "again", string(in.Bytes()), "without what it held before")

	in.Put(c, make([]byte, 1000))
	assert.Len(t, in.Bytes(), 1005)
	assert.Len(t, w.spares.free[0], 1, "the smaller one is back")
	assert.PanicsWithValue(t, "stepio: Input.Discard: more than is held", func() { in.Discard(1006) })
	assert.PanicsWithValue(t, "stepio: Input.Discard: more than is held", func() { in.Discard(-1) })
	require.NoError(t, in.Close())
	assert.NotPanics(t, func() { in.Discard(0) })
}

// Whatever is put and discarded, in whatever sizes, comes out as it went in.
func TestInputAgainstAModel(t *testing.T) {
	rnd := seededRand(t)
	w := newTestLoop(t)
	c, _ := w.pair()
	var in Input
	var model []byte
	next := byte(0)
	for range 20_000 {
		if rnd.IntN(2) == 0 {
			p := make([]byte, rnd.IntN(1<<rnd.IntN(13)))
			for i := range p {
				p[i] = next
				next++
			}
			in.Put(c, p)
			model = append(model, p...)
		} else {
			n := rnd.IntN(len(model) + 1)
			in.Discard(n)
			model = model[n:]
		}
		require.True(t, bytes.Equal(model, in.Bytes()))
		require.Equal(t, len(model) == 0, in.buf == nil)
	}
	require.NoError(t, in.Close())
}

// A loop's spare buffers are bounded, however many were in use at once.
func TestSpareBuffersAreBounded(t *testing.T) {
	var spares spareBuffers
	for class, size := range bufferSizes {
		var used []*buffer
		for range 2*spareBytes/size + 1 {
			used = append(used, spares.take(size))
		}
		for _, b := range used {
			b.give()
		}
		assert.Equal(t, spareBytes/size, len(spares.free[class]))
	}
	var lent []*buffer
	for range 10_000 {
		lent = append(lent, spares.borrow([]byte("x")))
	}
	for _, b := range lent {
		b.give()
		assert.Nil(t, b.data, "what was borrowed is let go")
	}
	assert.Equal(t, spareBytes/bufferSizes[0], len(spares.headers))
	spares.take(bufferSizes[2] + 1).give()
}

func TestFramesThatWereNotStarted(t *testing.T) {
	assert.PanicsWithValue(t, "stepio: Copy.Step: not started", func() { new(Copy).Step(nil) })
	assert.PanicsWithValue(t, "stepio: Linger.Step: not started", func() { new(Linger).Step(nil) })
	assert.NoError(t, new(Linger).Close())
	assert.NoError(t, new(Copy).Close())
}

//go:build linux || darwin

package stepio

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// called is a frame for Call, made of a function.
type called struct {
	sm.Returns[int]
	step          func(f *called, t *sm.Task) sm.Await
	steps, closes atomic.Int32
	closeErr      error
}

func (f *called) Step(t *sm.Task) sm.Await { f.steps.Add(1); return f.step(f, t) }
func (f *called) Close() error             { f.closes.Add(1); return f.closeErr }

// parkedCall is a frame that waits for ever, and tells when it does.
func parkedCall() (f *called, parked <-chan struct{}) {
	ch := make(chan struct{}, 100)
	return &called{step: func(*called, *sm.Task) sm.Await {
		ch <- struct{}{}
		return sm.Park
	}}, ch
}

// callLater is Call on a goroutine of its own.
func callLater(ctx context.Context, l *Loop, f *called) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := Call(ctx, l, f)
		result <- err
	}()
	return result
}

func TestCallReturnsWhatTheFrameDoes(t *testing.T) {
	panicked := &sm.PanicError{}
	for name, c := range map[string]struct {
		step     func(f *called, t *sm.Task) sm.Await
		closeErr error
		value    int
		check    func(err error)
		reports  int
	}{
		"a value": {
			step:  func(f *called, _ *sm.Task) sm.Await { return f.Return(7) },
			value: 7, check: func(err error) { assert.NoError(t, err) },
		},
		"a value, after a while": {
			step: func(f *called, _ *sm.Task) sm.Await {
				if f.steps.Load() < 10 {
					return sm.Yield
				}
				return f.Return(7)
			},
			value: 7, check: func(err error) { assert.NoError(t, err) },
		},
		"an error in the first step, which nobody else is told": {
			step:  func(f *called, _ *sm.Task) sm.Await { return f.Fail(io.ErrUnexpectedEOF) },
			check: func(err error) { assert.Equal(t, io.ErrUnexpectedEOF, err) },
		},
		"an error in a later step": {
			step: func(f *called, _ *sm.Task) sm.Await {
				if f.steps.Load() < 10 {
					return sm.Yield
				}
				return f.Fail(io.ErrUnexpectedEOF)
			},
			check: func(err error) { assert.Equal(t, io.ErrUnexpectedEOF, err) },
		},
		"a panic": {
			step:    func(*called, *sm.Task) sm.Await { panic("thrown") },
			check:   func(err error) { assert.ErrorAs(t, err, &panicked) },
			reports: 1,
		},
		"no result": {
			step:  func(*called, *sm.Task) sm.Await { return sm.Done },
			check: func(err error) { assert.Equal(t, sm.ErrNoResult, err) },
		},
		"the zero Await": {
			step: func(*called, *sm.Task) sm.Await { return sm.Await{} },
			check: func(err error) {
				var forgotten *sm.ForgottenError
				assert.ErrorAs(t, err, &forgotten)
			},
		},
		"destroyed by itself": {
			step:  func(_ *called, t *sm.Task) sm.Await { t.Destroy(); return sm.Park },
			check: func(err error) { assert.Equal(t, sm.ErrDestroyed, err) },
		},
		"an error of Close": {
			step:     func(f *called, _ *sm.Task) sm.Await { return f.Return(7) },
			closeErr: io.ErrClosedPipe,
			check:    func(err error) { assert.Equal(t, io.ErrClosedPipe, err) },
			reports:  1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			w.run()
			f := &called{step: c.step, closeErr: c.closeErr}
			v, err := Call(t.Context(), w.Loop, f)
			assert.Equal(t, c.value, v)
			c.check(err)
			assert.EqualValues(t, 1, f.closes.Load(), "closed when Call returns")
			w.Stop()
			require.NoError(t, w.joined())
			assert.Len(t, w.reported(), c.reports)
		})
	}
}

func TestCallOfAFrameThatWasSpawnedBefore(t *testing.T) {
	w := newTestLoop(t)
	f := &called{step: func(f *called, _ *sm.Task) sm.Await { return f.Return(7) }}
	w.Spawn(f)
	w.run()
	_, err := Call(t.Context(), w.Loop, f)
	var p *sm.PanicError
	require.ErrorAs(t, err, &p)
	assert.Contains(t, p.Value, "was spawned before")
}

func TestCallCancelled(t *testing.T) {
	t.Run("before: nothing is stepped, and the loop closes the frame", func(t *testing.T) {
		w := newTestLoop(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := &called{step: func(*called, *sm.Task) sm.Await { t.Error("stepped"); return sm.Done }}
		_, err := Call(ctx, w.Loop, f)
		assert.Equal(t, context.Canceled, err)
		assert.Zero(t, f.closes.Load())
		w.turns(1)
		assert.EqualValues(t, 1, f.closes.Load())
	})
	t.Run("meanwhile: it is destroyed when Call returns", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		f, parked := parkedCall()
		result := callLater(ctx, w.Loop, f)
		receives(t, "it runs", parked)
		cancel()
		assert.Equal(t, context.Canceled, receives(t, "Call", result))
		assert.EqualValues(t, 1, f.closes.Load())
	})
	t.Run("by a deadline", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithTimeout(t.Context(), 1)
		defer cancel()
		f, _ := parkedCall()
		assert.Equal(t, context.DeadlineExceeded, receives(t, "Call", callLater(ctx, w.Loop, f)))
	})
	t.Run("while the frame's own error is on its way: no error is lost", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		f := &called{step: func(f *called, _ *sm.Task) sm.Await {
			cancel()
			return f.Fail(io.ErrUnexpectedEOF)
		}}
		assert.Equal(t, io.ErrUnexpectedEOF, receives(t, "Call", callLater(ctx, w.Loop, f)))
	})
	t.Run("afterwards: nothing happens", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		f := &called{step: func(f *called, _ *sm.Task) sm.Await { return f.Return(7) }}
		v, err := Call(ctx, w.Loop, f)
		cancel()
		assert.Equal(t, 7, v)
		assert.NoError(t, err)
		assert.EqualValues(t, 1, f.closes.Load())
	})
	t.Run("on a loop that never runs", func(t *testing.T) {
		w := newTestLoop(t)
		ctx, cancel := context.WithCancel(t.Context())
		f := &called{step: func(*called, *sm.Task) sm.Await { t.Error("stepped"); return sm.Done }}
		result := callLater(ctx, w.Loop, f)
		for w.mail.empty() {
			runtime.Gosched()
		}
		cancel()
		assert.Equal(t, context.Canceled, receives(t, "Call", result))
		require.NoError(t, w.Close())
		assert.EqualValues(t, 1, f.closes.Load(), "the loop's Close closes it")
	})
	t.Run("while the loop's queue is full", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		f, parked := parkedCall()
		result := callLater(ctx, w.Loop, f)
		receives(t, "it runs", parked)
		g := newGate(t)
		require.NoError(t, w.Post(g.pass))
		receives(t, "the loop is busy", g.entered)
		for w.Post(func() {}) == nil {
		}
		_, err := Call(t.Context(), w.Loop, &called{})
		assert.Equal(t, ErrQueueFull, err, "a new Call is refused")
		cancel()
		g.lift()
		assert.Equal(t, context.Canceled, receives(t, "Call", result))
		assert.EqualValues(t, 1, f.closes.Load())
	})
	t.Run("on a loop that was stopped", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		f, parked := parkedCall()
		result := callLater(ctx, w.Loop, f)
		receives(t, "it runs", parked)
		w.Stop()
		require.NoError(t, w.joined())
		cancel()
		assert.Equal(t, context.Canceled, receives(t, "Call", result))
		assert.Zero(t, f.closes.Load())
		require.NoError(t, w.Close())
		assert.EqualValues(t, 1, f.closes.Load())
	})
}

func TestCallOnALoopThatIsClosed(t *testing.T) {
	t.Run("before: nothing of the frame is called", func(t *testing.T) {
		w := newTestLoop(t)
		w.Stop()
		f := &called{}
		_, err := Call(t.Context(), w.Loop, f)
		assert.Equal(t, ErrLoopClosed, err)
		require.NoError(t, w.Close())
		assert.Zero(t, f.closes.Load())
	})
	t.Run("meanwhile: the frame is closed when Call returns", func(t *testing.T) {
		w := newTestLoop(t)
		w.run()
		f, parked := parkedCall()
		result := callLater(t.Context(), w.Loop, f)
		receives(t, "it runs", parked)
		w.Stop()
		require.NoError(t, w.joined())
		assert.Empty(t, result)
		require.NoError(t, w.Close())
		err := receives(t, "Call", result)
		assert.ErrorIs(t, err, ErrLoopClosed)
		assert.ErrorIs(t, err, sm.ErrDestroyed)
		assert.EqualValues(t, 1, f.closes.Load())
	})
	t.Run("without having run", func(t *testing.T) {
		w := newTestLoop(t)
		f := &called{step: func(*called, *sm.Task) sm.Await { t.Error("stepped"); return sm.Done }}
		result := callLater(t.Context(), w.Loop, f)
		for w.mail.empty() {
			runtime.Gosched()
		}
		require.NoError(t, w.Close())
		assert.ErrorIs(t, receives(t, "Call", result), ErrLoopClosed)
		assert.EqualValues(t, 1, f.closes.Load())
	})
}

// However Call, ctx, Stop and Close meet, each Call returns, and each frame is
// closed once, or not at all when it was refused.
func TestCallFromManyGoroutines(t *testing.T) {
	for range 30 {
		w := newTestLoop(t)
		w.run()
		const callers = 16
		frames := make([]*called, callers)
		errs := make([]error, callers)
		ctx, cancel := context.WithCancel(t.Context())
		var calls, begun sync.WaitGroup
		for i := range frames {
			frames[i] = &called{step: func(f *called, _ *sm.Task) sm.Await {
				switch {
				case f.steps.Load() < int32(i):
					return sm.Yield
				case i%2 == 0:
					return f.Return(i)
				default:
					return sm.Park
				}
			}}
			begun.Add(1)
			calls.Go(func() {
				begun.Done()
				var v int
				v, errs[i] = Call(ctx, w.Loop, frames[i])
				if errs[i] == nil {
					assert.Equal(t, i, v)
				}
			})
		}
		begun.Wait()
		var enders sync.WaitGroup
		enders.Go(cancel)
		enders.Go(w.Stop)
		within(t, "every Call, before the loop is closed", calls.Wait)
		enders.Wait()
		require.NoError(t, w.joined())
		require.NoError(t, w.Close())
		for i, f := range frames {
			closes := int32(1)
			if errors.Is(errs[i], ErrLoopClosed) {
				closes = 0
			}
			assert.Equal(t, closes, f.closes.Load(), "frame %d: %v", i, errs[i])
		}
	}
}

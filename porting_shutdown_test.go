//go:build linux || darwin

package stepio_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// What docs/porting.md says of Shutdown.

// region: idle

// Idle says that nothing is lost when the task ends here: between two lines.
func (g *greet) Idle() bool { return g.state == greetReading && len(g.carry.Bytes()) == 0 }

// endregion

// region: draining
type sweep struct {
	every time.Duration
	next  time.Time
	work  func()
}

func (s *sweep) Step(t *sm.Task) sm.Await {
	for !t.Draining() {
		if a := t.SleepUntil(s.next); a.Pending() {
			return a
		}
		s.work()
		s.next = t.Now().Add(s.every)
	}
	return sm.Done
}

// endregion

func TestPortingShutdown(t *testing.T) {
	g := newGuide(t)
	loop := g.Loop
	conn, idle := g.pair()
	other, active := g.pair()
	swept := make(chan struct{}, 1)
	g.Spawn(&sweep{every: time.Hour, work: func() { swept <- struct{}{} }})
	g.Spawn(&greet{conn: conn, limit: longest})
	busy := &greet{conn: other, limit: longest}
	g.Spawn(busy)
	g.conns = nil // the tasks'
	g.start()
	<-swept
	write := func(text string) {
		_, err := io.WriteString(active, text)
		require.NoError(t, err)
	}
	write("y")
	for seen := false; !seen; { // half a line is there
		g.on(func() { seen = len(busy.carry.Bytes()) > 0 })
	}
	shutDown := func() error {
		// region: shutdown
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		err := loop.Shutdown(ctx) // any goroutine but the loop's; Run has returned then, or does at once
		// endregion
		return err
	}
	result := make(chan error, 1)
	go func() { result <- shutDown() }()
	_, err := io.ReadAll(idle)
	require.NoError(t, err)
	assert.Empty(t, result)
	write("ou\n")
	answer, err := io.ReadAll(active)
	require.NoError(t, err)
	assert.Equal(t, "hello, you\n", string(answer))
	require.NoError(t, <-result)
	require.NoError(t, <-g.stopped)
	g.stopped = nil
}

package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
	"github.com/stepio-go/stepio/sm"
)

// patience bounds everything a test waits for.
const patience = 20 * time.Second

// newServer is a reader on a loop of its own, and a client of it.
func newServer(t *testing.T, pool *stepio.Pool, most int) (*stepio.Loop, *reader, net.Conn) {
	loop, err := stepio.NewLoop(stepio.WithChecks(), stepio.WithReport(func(_ *sm.Task, err error) {
		t.Errorf("not expected: report of %v", err)
	}))
	require.NoError(t, err)
	conn, err := stepio.ListenUDP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenUDPOptions{})
	require.NoError(t, err)
	client, err := net.Dial("udp", conn.LocalAddr().String())
	require.NoError(t, err)
	require.NoError(t, client.SetDeadline(time.Now().Add(patience)))
	r := newReader(conn, pool, most)
	loop.Spawn(r)
	ran := make(chan error, 1)
	go func() { ran <- loop.Run() }()
	t.Cleanup(func() {
		loop.Stop()
		assert.NoError(t, <-ran)
		assert.NoError(t, loop.Close())
		assert.Zero(t, r.inFlight, "every answer has ended")
		assert.NoError(t, client.Close())
	})
	return loop, r, client
}

func TestReaderBoundsTheTasksInFlight(t *testing.T) {
	const most, sent = 4, 20
	pool := stepio.NewPool(2, 64)
	defer pool.Join()
	defer pool.Stop()
	gate := make(chan struct{})
	for range 2 { // both workers wait
		require.NoError(t, pool.TrySubmit(func() { <-gate }))
	}
	loop, r, client := newServer(t, pool, most)
	for i := range sent {
		_, err := fmt.Fprint(client, i)
		require.NoError(t, err)
	}
	look := func() (inFlight, tasks int, state readerState) {
		done := make(chan struct{})
		require.NoError(t, loop.Post(func() {
			defer close(done)
			inFlight, tasks, state = r.inFlight, loop.Tasks(), r.state
		}))
		<-done
		return inFlight, tasks, state
	}
	full := func() bool { _, _, state := look(); return state == readerFull }
	assert.Eventually(t, full, patience, time.Millisecond)
	for range 10 { // and stays so
		inFlight, tasks, state := look()
		assert.Equal(t, most, inFlight)
		assert.Equal(t, most+1, tasks)
		assert.Equal(t, readerFull, state)
	}
	close(gate)
	want := make(map[string]bool)
	for i := range sent {
		want[fmt.Sprint(i)] = true
	}
	got := make([]byte, 100)
	for len(want) > 0 {
		n, err := client.Read(got)
		require.NoError(t, err, "missing: %v", want)
		require.Contains(t, want, string(got[:n]))
		delete(want, string(got[:n]))
	}
}

func TestReaderEndsWithAnswersInFlight(t *testing.T) {
	pool := stepio.NewPool(1, 64)
	defer pool.Join()
	defer pool.Stop()
	gate := make(chan struct{})
	defer close(gate)
	require.NoError(t, pool.TrySubmit(func() { <-gate }))
	loop, r, client := newServer(t, pool, 8)
	for range 8 {
		_, err := io.WriteString(client, "?")
		require.NoError(t, err)
	}
	assert.Eventually(t, func() bool {
		busy := make(chan bool, 1)
		require.NoError(t, loop.Post(func() { busy <- r.inFlight == 8 }))
		return <-busy
	}, patience, time.Millisecond)
	// The cleanup closes the loop, and with it nine tasks.
}

func TestFramesPanicWithAnUnknownState(t *testing.T) {
	assert.PanicsWithValue(t, "reader.Step: state 9", func() { (&reader{state: 9}).Step(nil) })
	assert.PanicsWithValue(t, "answer.Step: state 9", func() { (&answer{state: 9}).Step(nil) })
}

package hostile

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// A rig is a loop of the test's own process, in Run, for what is not about time
// or memory. When the test ends nothing may be left of it.
type rig struct {
	t       testing.TB
	loop    *stepio.Loop
	epoll   int
	ran     chan error
	reports []string // the loop's
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, ran: make(chan error, 1)}
	var err error
	r.epoll = newEpoll(func() { r.loop, err = stepio.NewLoop(stepio.WithChecks(), stepio.WithReport(r.report)) })
	require.NoError(t, err)
	go func() { r.ran <- r.loop.Run() }()
	t.Cleanup(r.end)
	return r
}

func (r *rig) report(t *sm.Task, err error) {
	if t != nil {
		err = fmt.Errorf("%s: %w", t.Chain(), err)
	}
	r.reports = append(r.reports, err.Error())
}

func (r *rig) end() {
	r.loop.Stop()
	assert.NoError(r.t, <-r.ran)
	assert.NoError(r.t, r.loop.Close())
	assert.Zero(r.t, r.loop.Tasks())
	assert.Empty(r.t, r.reports)
}

// do has fn run on the loop, and waits for it. It must not end its goroutine, as
// require does.
func (r *rig) do(fn func()) {
	r.t.Helper()
	done := make(chan struct{})
	require.NoError(r.t, r.loop.Post(func() { defer close(done); fn() }))
	select {
	case <-done:
	case <-time.After(patience):
		require.FailNow(r.t, "the loop does not turn")
	}
}

// until waits for a condition that is looked at on the loop.
func (r *rig) until(what string, cond func() bool) {
	r.t.Helper()
	met := false
	for end := time.Now().Add(patience); !met; {
		r.do(func() { met = cond() })
		if !met && time.Now().After(end) {
			require.FailNow(r.t, "waited in vain: "+what)
		}
	}
}

// listen serves a new listener with the frames that handle makes. Its connections
// inherit the socket options that prepare sets, if there is one.
func (r *rig) listen(prepare func(fd int) error, handle func(*stepio.TCPConn) sm.Frame) (ln *stepio.TCPListener) {
	r.t.Helper()
	var err error
	r.do(func() {
		ln, err = stepio.ListenTCP(r.loop, loopback, stepio.ListenOptions{})
		if err != nil {
			return
		}
		if prepare != nil {
			err = prepare(ln.FD())
		}
		r.loop.Spawn(stepio.NewServe(ln, handle))
	})
	require.NoError(r.t, err)
	return ln
}

// standing is what there is of a rig and its process.
type standing struct{ Tasks, Registrations, FDs int }

func (r *rig) standing() (s standing) {
	r.do(func() { s = standing{r.loop.Tasks(), registrations(r.epoll), openFDs()} })
	return s
}

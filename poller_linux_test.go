package stepio

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A wake whose write fails finds another way: the loop would sleep on.
func TestEpollWakesWithoutAWrite(t *testing.T) {
	events := make([]event, 1)
	for _, c := range []struct {
		name  string
		times int
		wake  func(p *epoll) error
	}{
		{"an eventfd that was never written", 3, (*epoll).wakeAnew},
		{"one whose counter is full", 1, func(p *epoll) error {
			_, err := unix.Write(p.eventfd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
			require.NoError(t, err)
			_, err = p.wait(events, 0) // takes the edge of that write
			require.NoError(t, err)
			return p.wake()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			made, err := newPoller(1)
			require.NoError(t, err)
			p := made.(*epoll)
			defer func() { assert.NoError(t, p.close()) }()
			for range c.times {
				require.NoError(t, c.wake(p))
				start := time.Now()
				n, err := p.wait(events, patience)
				require.NoError(t, err)
				assert.Zero(t, n, "a wake is no event")
				assert.Less(t, time.Since(start), patience/2)
			}
		})
	}
}

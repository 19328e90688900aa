package stepio

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// Before its last look at the queue a listener refuses new connections, and only
// these: who is in the queue stays, and a connection made earlier goes on.
func TestListenerDropsTheFirstPacketBeforeItCloses(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			w := newTestLoop(t)
			ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort(addr), ListenOptions{})
			if err != nil {
				t.Skip("SKIPPED: ", err)
			}
			early, err := net.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			defer early.Close()
			w.sys.refuseNew(ln.FD())
			_, err = net.DialTimeout("tcp", ln.Addr().String(), 50*time.Millisecond)
			var netErr net.Error
			require.ErrorAs(t, err, &netErr)
			assert.True(t, netErr.Timeout(), "neither taken nor refused: %v", err)
			c, err := ln.Accept()
			require.NoError(t, err)
			_, err = c.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, early.SetDeadline(time.Now().Add(patience)))
			_, err = early.Read(make([]byte, 1))
			assert.NoError(t, err)
			require.NoError(t, c.Close())
			require.NoError(t, ln.Close())
		})
	}
}

// Clients that came faster than they were accepted kept a listener open, and a
// loop from ending, for as long as they came. Those that were ended idle and
// came back at once could do so for ever.
func TestListenerIsNotKeptOpenByThoseWhoStillCome(t *testing.T) {
	const clients, most = 3, 10
	w := newTestLoop(t)
	ln, err := ListenTCP(w.Loop, netip.MustParseAddrPort("127.0.0.1:0"), ListenOptions{})
	require.NoError(t, err)
	came := 0
	come := func() error {
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 50*time.Millisecond)
		if err == nil {
			came++
			t.Cleanup(func() { _ = c.Close() }) // nothing was sent
		}
		return err
	}
	for range clients {
		require.NoError(t, come())
	}
	served, refused := 0, 0
	task := w.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame {
		if served++; came < most && come() != nil {
			refused++
		}
		return nil
	}))
	w.sched.Drain()
	w.ended(task)
	assert.Equal(t, clients, served)
	assert.Equal(t, clients, refused, "who comes later finds the next server")
}

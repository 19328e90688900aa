package stepio

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

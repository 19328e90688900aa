package stepio

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

// A listener a loop on one address: on Linux the kernel spreads the
// connections over them.
func TestGroupReusePortListenersAllGetConnections(t *testing.T) {
	g, log := newTestGroup(t, 3)
	addr := loopback
	require.NoError(t, g.Each(func(i int, l *Loop) error {
		ln, err := ListenTCP(l, addr, ListenOptions{ReusePort: true})
		if err != nil {
			return err
		}
		addr = ln.Addr()
		l.Spawn(NewServe(ln, func(c *TCPConn) sm.Frame {
			assert.Same(t, l, c.Loop())
			return greeter(c, fmt.Sprintf("loop %d", i))
		}))
		return nil
	}))
	assert.NotEqual(t, netip.AddrPort{}, addr)
	seen := make(map[string]bool)
	for n := 0; n < 1000 && len(seen) < 3; n++ {
		who, err := dialAndRead(addr)
		require.NoError(t, err)
		seen[who] = true
	}
	assert.Len(t, seen, 3)
	g.Stop()
	require.NoError(t, g.Join())
	assert.Empty(t, log.take())
}

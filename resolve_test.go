package stepio

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestResolveAddr(t *testing.T) {
	for hostport, want := range map[string]string{
		"127.0.0.1:8888":         "127.0.0.1:8888",
		"[::1]:8888":             "[::1]:8888",
		"[fe80::1%1]:8888":       "[fe80::1%1]:8888",
		"[::ffff:10.1.2.3]:8888": "10.1.2.3:8888", // plain
		":8888":                  "[::]:8888",     // both families
		"[::]:8888":              "[::]:8888",
		"0.0.0.0:8888":           "0.0.0.0:8888",
		"127.0.0.1:http":         "127.0.0.1:80",
		":https":                 "[::]:443",
		"127.0.0.1:0":            "127.0.0.1:0",
		"127.0.0.1:":             "127.0.0.1:0",
		"127.0.0.1:65535":        "127.0.0.1:65535",
	} {
		t.Run(hostport, func(t *testing.T) {
			addrs, err := ResolveAddr(t.Context(), hostport)
			require.NoError(t, err)
			assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort(want)}, addrs)
		})
	}
}

// The name of a service that is there over UDP alone was unknown.
func TestResolveAddrOfAUDPService(t *testing.T) {
	port, err := net.LookupPort("udp", "tftp")
	if err != nil {
		t.Skip("SKIPPED: the system does not know tftp: ", err)
	}
	addrs, err := ResolveAddr(context.Background(), "127.0.0.1:tftp")
	require.NoError(t, err)
	assert.Equal(t, []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))}, addrs)
}

func TestResolveAddrOfLocalhost(t *testing.T) {
	addrs, err := ResolveAddr(t.Context(), "localhost:8888")
	require.NoError(t, err)
	require.NotEmpty(t, addrs)
	for _, a := range addrs {
		assert.True(t, a.Addr().IsLoopback())
		assert.False(t, a.Addr().Is4In6())
		assert.EqualValues(t, 8888, a.Port())
	}
}

func TestResolveAddrRefuses(t *testing.T) {
	for name, hostport := range map[string]string{
		"a missing port":           "127.0.0.1",
		"nothing":                  "",
		"an IPv6 address unquoted": "::1:8888",
		"a port out of range":      "127.0.0.1:65536",
		"a negative port":          "127.0.0.1:-1",
		"an unknown service":       "127.0.0.1:no-such-service",
	} {
		t.Run(name, func(t *testing.T) {
			addrs, err := ResolveAddr(t.Context(), hostport)
			assert.Empty(t, addrs)
			var wrong *net.AddrError
			var unknown *net.DNSError
			assert.True(t, errors.As(err, &wrong) || errors.As(err, &unknown), "%T %v", err, err)
		})
	}
}

// noSuchName is a resolver that asks a server on the loopback, which knows no name.
func noSuchName(t testing.TB) *net.Resolver {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			if n >= 12 {
				buf[2] |= 0x80                  // an answer (RFC 1035, 4.1.1)
				buf[3] = buf[3]&0xf0 | 0x80 | 3 // from one who recurses: no such name
				_, _ = server.WriteTo(buf[:n], from)
			}
		}
	}()
	t.Cleanup(func() {
		assert.NoError(t, server.Close())
		<-served
	})
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
		},
	}
}

func TestResolveAddrOfAnUnknownName(t *testing.T) {
	resolver := noSuchName(t)
	_, err := resolveAddr(t.Context(), resolver, "no-such-host.invalid.:80")
	var dns *net.DNSError
	require.ErrorAs(t, err, &dns)
	assert.True(t, dns.IsNotFound, "%v", err)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = resolveAddr(ctx, resolver, "no-such-host.invalid.:80")
	assert.Error(t, err)
}

// It blocks, so on a loop it is a Job's.
func TestResolveAddrThroughAJob(t *testing.T) {
	resolver := noSuchName(t)
	w := newTestLoop(t)
	p := newTestPool(t, 2, 2)
	resolve := func(hostport string) func() ([]netip.AddrPort, error) {
		return func() ([]netip.AddrPort, error) { return resolveAddr(t.Context(), resolver, hostport) }
	}
	var known, unknown Job[[]netip.AddrPort]
	w.ended(
		spawnJob(w, &known, p, resolve("127.0.0.1:http")).task,
		spawnJob(w, &unknown, p, resolve("no-such-host.invalid.:80")).task,
	)
	addrs, err := known.Result()
	assert.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:80")}, addrs)
	assert.NoError(t, err)
	var dns *net.DNSError
	assert.ErrorAs(t, unknown.Err(), &dns)
}

var _ sm.Callee[[]netip.AddrPort] = (*Job[[]netip.AddrPort])(nil) // Call takes a Job

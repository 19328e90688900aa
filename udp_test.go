//go:build linux || darwin

package stepio

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

var (
	udpAny4 = netip.MustParseAddrPort("127.0.0.1:0")
	udpAny6 = netip.MustParseAddrPort("[::1]:0")
)

func udpListen(w *world, addr netip.AddrPort, options ListenUDPOptions) *UDPConn {
	w.t.Helper()
	c, err := ListenUDP(w.Loop, addr, options)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { assert.NoError(w.t, c.Close()) })
	return c
}

func udpDial(w *world, addr netip.AddrPort, options DialUDPOptions) *UDPConn {
	w.t.Helper()
	c, err := DialUDP(w.Loop, addr, options)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { assert.NoError(w.t, c.Close()) })
	return c
}

// udpPair is a socket, and one that is connected to it.
func udpPair(w *world) (server, client *UDPConn) {
	server = udpListen(w, udpAny4, ListenUDPOptions{})
	return server, udpDial(w, server.LocalAddr(), DialUDPOptions{})
}

// udpSend has the datagrams on their way before it returns: over the loopback
// they are in the receiver's buffer then.
func udpSend(t testing.TB, c *UDPConn, data ...string) {
	t.Helper()
	for _, d := range data {
		n, err := c.Write([]byte(d))
		require.NoError(t, err)
		require.Equal(t, len(d), n)
	}
}

// udpTexts is what a batch holds.
func udpTexts(ds []Datagram) (texts []string) {
	for _, d := range ds {
		texts = append(texts, string(d.Data))
	}
	return texts
}

func udpNumbered(n int) (texts []string) {
	for i := range n {
		texts = append(texts, fmt.Sprintf("datagram %d", i))
	}
	return texts
}

// udpDead is a local address where nobody listens.
func udpDead(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(udpAny4))
	require.NoError(t, err)
	addr := c.LocalAddr().(*net.UDPAddr).AddrPort()
	require.NoError(t, c.Close())
	return unmapped(addr)
}

// udpCollect is a task that reads until it has n datagrams.
func udpCollect(w *world, c *UDPConn, n int, got *[]string) *fake {
	return w.spawn(func(t *sm.Task) sm.Await {
		for len(*got) < n {
			m, _, err := c.ReadFrom(t.Scratch())
			if err == ErrWouldBlock {
				return c.Readable()
			}
			if err != nil {
				*got = append(*got, err.Error())
				continue
			}
			*got = append(*got, string(t.Scratch()[:m]))
		}
		return sm.Done
	})
}

func TestUDPConnSize(t *testing.T) {
	assert.EqualValues(t, 24, unsafe.Sizeof(TCPConn{}))
	assert.EqualValues(t, 24, unsafe.Sizeof(socket{}))
	assert.EqualValues(t, 64, unsafe.Sizeof(UDPConn{}))
}

func TestUDPConnReadFrom(t *testing.T) {
	for name, c := range map[string]struct {
		sent string
		room int
		n    int
		err  error
	}{
		"a datagram arrives whole":                       {"hello", 16, 5, nil},
		"a datagram fits exactly":                        {"hello", 5, 5, nil},
		"a longer one is reported, with what there is":   {"hello", 4, 4, ErrTruncated},
		"an empty datagram is no bytes and no error":     {"", 16, 0, nil},
		"an empty datagram fits an empty buffer":         {"", 0, 0, nil},
		"a datagram does not fit an empty buffer":        {"x", 0, 0, ErrTruncated},
		"the longest datagram arrives whole":             {strings.Repeat("x", 65507), sm.ScratchSize, 65507, nil},
		"the longest datagram minus one byte is cut too": {strings.Repeat("x", 65507), 65506, 65506, ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			server, client := udpPair(newTestLoop(t))
			udpSend(t, client, c.sent)
			p := make([]byte, c.room)
			n, from, err := server.ReadFrom(p)
			assert.Equal(t, c.n, n)
			assert.Equal(t, c.err, err)
			assert.Equal(t, client.LocalAddr(), from)
			assert.Equal(t, c.sent[:n], string(p[:n]))

			n, from, err = server.ReadFrom(p)
			assert.Equal(t, ErrWouldBlock, err, "what did not fit is lost, not the next datagram")
			assert.Zero(t, n)
			assert.False(t, from.IsValid())
		})
	}
}

func TestUDPConnReadOfConnected(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	stranger := udpListen(w, udpAny4, ListenUDPOptions{})
	p := make([]byte, 16)

	_, err := stranger.WriteTo([]byte("not from the peer"), client.LocalAddr())
	require.NoError(t, err)
	_, err = server.WriteTo([]byte("peer"), client.LocalAddr())
	require.NoError(t, err)
	n, err := client.Read(p)
	require.NoError(t, err)
	assert.Equal(t, "peer", string(p[:n]), "a connected socket hears its peer only")
	_, err = client.Read(p)
	assert.Equal(t, ErrWouldBlock, err)

	_, err = server.WriteTo([]byte("longer than the buffer"), client.LocalAddr())
	require.NoError(t, err)
	n, err = client.Read(p)
	assert.Equal(t, ErrTruncated, err)
	assert.Equal(t, len(p), n)

	_, err = server.WriteTo(nil, client.LocalAddr())
	require.NoError(t, err)
	n, from, err := client.ReadFrom(p)
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Equal(t, server.LocalAddr(), from)
}

func TestUDPConnWriteTo(t *testing.T) {
	w := newTestLoop(t)
	server := udpListen(w, udpAny4, ListenUDPOptions{})
	other := udpListen(w, udpAny4, ListenUDPOptions{})
	connected := udpDial(w, server.LocalAddr(), DialUDPOptions{})
	good, long := []byte("x"), make([]byte, 65508)

	for name, c := range map[string]struct {
		conn *UDPConn
		p    []byte
		to   netip.AddrPort
		err  error
	}{
		"a datagram goes where it is sent":                   {other, good, server.LocalAddr(), nil},
		"an empty datagram is one":                           {other, nil, server.LocalAddr(), nil},
		"a mapped address is the IPv4 address":               {other, good, mapped(unix.AF_INET6, server.LocalAddr()), nil},
		"a connected socket takes its peer's address":        {connected, good, server.LocalAddr(), nil},
		"a connected socket takes its peer in mapped form":   {connected, good, mapped(unix.AF_INET6, server.LocalAddr()), nil},
		"a connected socket sends to nobody else":            {connected, good, other.LocalAddr(), net.ErrWriteToConnected},
		"a connected socket does not take the invalid one":   {connected, good, netip.AddrPort{}, net.ErrWriteToConnected},
		"port 0 is refused by the kernel":                    {other, good, netip.MustParseAddrPort("127.0.0.1:0"), syscall.EINVAL},
		"a datagram can be too long":                         {other, long, server.LocalAddr(), syscall.EMSGSIZE},
		"the invalid address is none":                        {other, good, netip.AddrPort{}, syscall.EDESTADDRREQ},
		"an IPv4 socket does not send to IPv6":               {other, good, udpAny6, syscall.EAFNOSUPPORT},
		"a zone that names no interface is the datagram's":   {other, good, netip.MustParseAddrPort("[fe80::1%no-such]:9"), syscall.ENODEV},
		"an address that needs a permission is refused, too": {other, good, netip.MustParseAddrPort("255.255.255.255:9"), syscall.EACCES},
	} {
		t.Run(name, func(t *testing.T) {
			w.owner.claim()
			n, err := c.conn.WriteTo(c.p, c.to)
			if c.err == nil {
				require.NoError(t, err)
				assert.Equal(t, len(c.p), n)
				p := make([]byte, 8)
				n, from, err := server.ReadFrom(p)
				require.NoError(t, err)
				assert.Equal(t, string(c.p), string(p[:n]))
				assert.Equal(t, c.conn.LocalAddr(), from)
				return
			}
			assert.Zero(t, n)
			require.ErrorIs(t, err, c.err)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			assert.Equal(t, "write", op.Op)
			assert.Equal(t, "udp", op.Net)

			ds := []Datagram{{Data: c.p, Addr: c.to}}
			if c.to.IsValid() || c.conn == other {
				n, err = c.conn.WriteBatch(ds)
				require.NoError(t, err)
				assert.Equal(t, 1, n)
				assert.ErrorIs(t, ds[0].Err, c.err, "in a batch")
			}

			_, err = c.conn.WriteTo([]byte("on"), server.LocalAddr())
			require.NoError(t, err, "the socket goes on")
			_, _, err = server.ReadFrom(make([]byte, 8))
			require.NoError(t, err)
		})
	}
	w.owner.claim()
}

func TestUDPConnWriteNeedsAPeer(t *testing.T) {
	server := udpListen(newTestLoop(t), udpAny4, ListenUDPOptions{})
	_, err := server.Write([]byte("x"))
	assert.ErrorIs(t, err, syscall.EDESTADDRREQ)
}

func TestUDPConnRefusedPort(t *testing.T) {
	waits := map[string]func(c *UDPConn) sm.Await{
		"level-triggered": func(c *UDPConn) sm.Await { return c.Readable() },
		"edge-triggered":  func(c *UDPConn) sm.Await { return c.ReadableET() },
	}
	reads := map[string]func(c *UDPConn, p []byte) (string, error){
		"one at a time": func(c *UDPConn, p []byte) (string, error) {
			n, err := c.Read(p)
			return string(p[:n]), err
		},
		"in batches": func(c *UDPConn, p []byte) (string, error) {
			ds := []Datagram{{Data: p[:0:8]}, {Data: p[8:8:16]}}
			n, err := c.ReadFromET(ds)
			return strings.Join(udpTexts(ds[:n]), ","), err
		},
	}
	for mode, wait := range waits {
		for how, read := range reads {
			t.Run(mode+" "+how, func(t *testing.T) {
				w := newTestLoop(t)
				dead := udpDead(t)
				client := udpDial(w, dead, DialUDPOptions{})
				var got []string
				p := make([]byte, 16)
				task := w.spawn(func(*sm.Task) sm.Await {
					for len(got) < 3 {
						text, err := read(client, p)
						switch {
						case err == ErrWouldBlock:
							return wait(client)
						case errors.Is(err, syscall.ECONNREFUSED):
							got = append(got, "refused")
						case err != nil:
							got = append(got, err.Error())
						default:
							got = append(got, text)
						}
					}
					return sm.Done
				})
				w.settle()
				udpSend(t, client, "nobody there")
				w.until("the refusal is read", func() bool { return len(got) == 1 })
				udpSend(t, client, "still nobody")
				w.until("the refusal is read again", func() bool { return len(got) == 2 })

				server := udpListen(w, dead, ListenUDPOptions{})
				udpSend(t, client, "ping")
				_, from, err := server.ReadFrom(make([]byte, 8))
				require.NoError(t, err)
				_, err = server.WriteTo([]byte("pong"), from)
				require.NoError(t, err)
				w.ended(task.task)
				assert.Equal(t, []string{"refused", "refused", "pong"}, got)
				assert.Zero(t, client.slot().flags&slotRestless, "once the socket was empty, errors are over")
			})
		}
	}
}

func TestUDPConnRefusalBelongsToOneDatagram(t *testing.T) {
	w := newTestLoop(t)
	client := udpDial(w, udpDead(t), DialUDPOptions{})
	udpSend(t, client, "refused later")
	_, err := client.Write([]byte("told of it"))
	if err != nil { // Linux tells the next write; others may tell the next read
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		assert.Equal(t, client.RemoteAddr(), op.Addr.(*net.UDPAddr).AddrPort())
	}
	server := udpListen(w, client.RemoteAddr(), ListenUDPOptions{})
	_, _ = client.Read(make([]byte, 1)) // takes the refusal, where the write has not
	udpSend(t, client, "through")
	p := make([]byte, 16)
	n, _, err := server.ReadFrom(p)
	require.NoError(t, err)
	assert.Equal(t, "through", string(p[:n]))
}

func TestUDPConnReadFromETKeepsEveryDatagram(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	ds := NewBatch(8, 64)
	n := 0
	task := w.spawn(func(*sm.Task) sm.Await {
		var err error
		if n, err = server.ReadFromET(ds); err == ErrWouldBlock {
			return server.ReadableET()
		}
		require.NoError(t, err)
		return sm.Done
	})
	w.settle()
	want := []string{"one", "", "three three three", "4", "five"}
	udpSend(t, client, want...)
	w.ended(task.task)
	require.Equal(t, 5, n)
	assert.Equal(t, want, udpTexts(ds[:n]), "each with its own bytes")
	for _, d := range ds[:n] {
		assert.Equal(t, client.LocalAddr(), d.Addr)
		assert.False(t, d.Truncated)
		assert.NoError(t, d.Err)
	}
}

func TestUDPConnReadBatch(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	ds := NewBatch(3, 4)

	_, err := server.ReadBatch(ds)
	assert.Equal(t, ErrWouldBlock, err, "nothing has come")

	udpSend(t, client, "a", "far too long", "", "next")
	for i := range ds {
		ds[i].Truncated, ds[i].Err = true, os.ErrInvalid // of an earlier use
	}
	n, err := server.ReadBatch(ds)
	require.NoError(t, err)
	require.Equal(t, 3, n, "no more than there is room for")
	assert.Equal(t, []string{"a", "far ", ""}, udpTexts(ds))
	assert.Equal(t, []bool{false, true, false}, []bool{ds[0].Truncated, ds[1].Truncated, ds[2].Truncated})
	for i := range ds {
		assert.NoError(t, ds[i].Err)
		assert.Equal(t, client.LocalAddr(), ds[i].Addr)
	}

	n, err = server.ReadBatch(ds)
	require.NoError(t, err)
	assert.Equal(t, []string{"next"}, udpTexts(ds[:n]), "and the rest afterwards")
	assert.Equal(t, 4, cap(ds[1].Data), "the room stays what it was")

	assert.Panics(t, func() { _, _ = server.ReadBatch(nil) })
	assert.Panics(t, func() { _, _ = server.ReadFromET([]Datagram{}) })
	assert.PanicsWithValue(t, "stepio: UDPConn.ReadBatch: no room in datagram 1", func() {
		_, _ = server.ReadBatch([]Datagram{{Data: make([]byte, 1)}, {}})
	})
}

func TestUDPConnReadBatchOfConnected(t *testing.T) {
	server, client := udpPair(newTestLoop(t))
	for _, text := range []string{"a", "b"} {
		_, err := server.WriteTo([]byte(text), client.LocalAddr())
		require.NoError(t, err)
	}
	ds := NewBatch(2, 4)
	n, err := client.ReadBatch(ds)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	assert.Equal(t, server.LocalAddr(), ds[0].Addr)
	n, err = client.WriteBatch(ds)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	assert.NoError(t, ds[0].Err, "the peer's own address may be told")
}

func TestUDPConnBatchIsLongerThanOneCall(t *testing.T) {
	const count = 150
	w := newTestLoop(t)
	server, client := udpPair(w)
	texts := udpNumbered(count)
	out := make([]Datagram, count)
	for i := range out {
		out[i].Data = []byte(texts[i])
	}
	n, err := client.WriteBatch(out)
	require.NoError(t, err)
	require.Equal(t, count, n)

	in := NewBatch(count+10, 32)
	n, err = server.ReadBatch(in)
	require.NoError(t, err)
	assert.Equal(t, maxBatch, n)
	m, err := server.ReadFromET(in[n:])
	require.NoError(t, err)
	assert.Equal(t, texts, udpTexts(in[:n+m]), "all, in order")
	_, err = server.ReadFromET(in)
	assert.Equal(t, ErrWouldBlock, err)
}

func TestNewBatch(t *testing.T) {
	ds := NewBatch(3, 4)
	require.Len(t, ds, 3)
	for i := range ds {
		assert.Empty(t, ds[i].Data)
		assert.Equal(t, 4, cap(ds[i].Data))
		ds[i].Data = append(ds[i].Data, "aaaa"...)
	}
	ds[0].Data = append(ds[0].Data, "overflow"...)
	assert.Equal(t, "aaaa", string(ds[1].Data), "growing one does not reach the next")
	copy(ds[1].Data, "bbbb")
	assert.Equal(t, "aaaa", string(ds[2].Data))

	assert.Panics(t, func() { NewBatch(0, 1) })
	assert.Panics(t, func() { NewBatch(1, 0) })
	assert.Panics(t, func() { NewBatch(-1, -1) })
}

// TestUDPConnWriteBatchErrorStopsNothing puts every kind of bad datagram
// between good ones, in every order that the seed draws.
func TestUDPConnWriteBatchErrorStopsNothing(t *testing.T) {
	random := seededRand(t)
	for name, options := range map[string][]LoopOption{
		"the kernel's batch": nil,
		"one by one":         {func(c *loopConfig) { c.kernel = newFaults(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t, options...)
			server := udpListen(w, udpAny4, ListenUDPOptions{})
			client := udpListen(w, udpAny4, ListenUDPOptions{})
			for range 20 {
				udpWriteMixed(t, random, server, client)
			}
		})
	}
}

func udpWriteMixed(t *testing.T, random *rand.Rand, server, client *UDPConn) {
	to := server.LocalAddr()
	bad := []struct {
		d     Datagram
		errno syscall.Errno
	}{
		{Datagram{Data: []byte("port 0"), Addr: netip.AddrPortFrom(to.Addr(), 0)}, syscall.EINVAL},
		{Datagram{Data: make([]byte, 70000), Addr: to}, syscall.EMSGSIZE},
		{Datagram{Data: []byte("IPv6"), Addr: netip.AddrPortFrom(netip.IPv6Loopback(), 9)}, syscall.EAFNOSUPPORT},
		{Datagram{Data: []byte("zone"), Addr: netip.MustParseAddrPort("[fe80::1%nope]:9")}, syscall.ENODEV},
		{Datagram{Data: []byte("nowhere")}, syscall.EDESTADDRREQ},
	}
	var ds []Datagram
	var want []syscall.Errno
	var texts []string
	for i := range 1 + random.IntN(100) {
		if random.IntN(4) == 0 {
			b := bad[random.IntN(len(bad))]
			ds, want = append(ds, b.d), append(want, b.errno)
			continue
		}
		text := fmt.Sprintf("datagram %d", i)
		texts = append(texts, text)
		ds = append(ds, Datagram{Data: []byte(text), Addr: to, Err: os.ErrInvalid})
		want = append(want, 0)
	}
	n, err := client.WriteBatch(ds)
	require.NoError(t, err)
	require.Equal(t, len(ds), n)
	for i := range ds {
		if want[i] == 0 {
			require.NoError(t, ds[i].Err, "datagram %d", i)
			continue
		}
		require.ErrorIs(t, ds[i].Err, want[i], "datagram %d", i)
		var op *net.OpError
		require.ErrorAs(t, ds[i].Err, &op)
	}
	in := NewBatch(len(ds)+1, 32)
	var got []string
	for len(got) < len(texts) {
		// Now and then, on a machine that is busy, the last ones are still on their way.
		pollFD(server.FD(), unix.POLLIN, patience)
		n, err = server.ReadFromET(in)
		require.NoError(t, err)
		got = append(got, udpTexts(in[:n])...)
	}
	require.Equal(t, texts, got, "all of the good ones, in order")
	_, err = server.ReadFromET(in)
	require.Equal(t, ErrWouldBlock, err, "and no other")
}

func TestUDPConnWriteBatchOfConnected(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	ds := []Datagram{
		{Data: []byte("none")},
		{Data: []byte("wrong"), Addr: netip.MustParseAddrPort("127.0.0.1:9")},
		{Data: []byte("wrong"), Addr: netip.MustParseAddrPort("127.0.0.1:9")},
		{Data: []byte("peer"), Addr: server.LocalAddr()},
	}
	n, err := client.WriteBatch(ds)
	require.NoError(t, err)
	assert.Equal(t, 4, n)
	assert.NoError(t, ds[0].Err)
	assert.ErrorIs(t, ds[1].Err, net.ErrWriteToConnected)
	assert.ErrorIs(t, ds[2].Err, net.ErrWriteToConnected)
	assert.NoError(t, ds[3].Err)
	in := NewBatch(4, 8)
	n, err = server.ReadBatch(in)
	require.NoError(t, err)
	assert.Equal(t, []string{"none", "peer"}, udpTexts(in[:n]))

	n, err = client.WriteBatch(nil)
	assert.NoError(t, err)
	assert.Zero(t, n)
}

// TestUDPConnErrorsBetweenDatagrams reads once a step: what is left over must
// resume the task by itself.
func TestUDPConnErrorsBetweenDatagrams(t *testing.T) {
	waits := map[string]func(c *UDPConn) sm.Await{
		"level-triggered": func(c *UDPConn) sm.Await { return c.Readable() },
		"edge-triggered":  func(c *UDPConn) sm.Await { return c.ReadableET() },
	}
	const refused = syscall.ECONNREFUSED
	for mode, wait := range waits {
		for name, c := range map[string]struct {
			script []syscall.Errno
			want   []string
		}{
			"an error comes first":      {[]syscall.Errno{refused}, []string{"refused", "one", "two"}},
			"an error comes in between": {[]syscall.Errno{0, refused}, []string{"one", "refused", "two"}},
			"an error comes last":       {[]syscall.Errno{0, 0, refused}, []string{"one", "two", "refused"}},
			"errors come one by one":    {[]syscall.Errno{0, refused, refused}, []string{"one", "refused", "refused", "two"}},
			"errors come all the time":  {[]syscall.Errno{refused, 0, refused, 0, refused}, []string{"refused", "one", "refused", "two", "refused"}},
			"signals come in between":   {[]syscall.Errno{syscall.EINTR, 0, syscall.EINTR, refused}, []string{"one", "refused", "two"}},
			"no error comes in between": {nil, []string{"one", "two"}},
		} {
			t.Run(mode+", "+name, func(t *testing.T) {
				w := newFaultyLoop(t)
				server, client := udpPair(w)
				ds := NewBatch(4, 8)
				var got []string
				task := w.spawn(func(*sm.Task) sm.Await {
					n, err := server.ReadFromET(ds)
					switch {
					case errors.Is(err, refused):
						got = append(got, "refused")
					case err == nil:
						got = append(got, udpTexts(ds[:n])...)
					default:
						require.Equal(t, ErrWouldBlock, err)
					}
					return wait(server)
				})
				w.settle()
				w.faults.fail(callReceiveFrom, c.script...)
				udpSend(t, client, "one", "two")
				w.until("all of it has been read", func() bool { return len(got) == len(c.want) })
				assert.Equal(t, c.want, got)
				task.task.Destroy()
			})
		}
	}
}

// TestUDPConnShortBatchAfterAnError is about the kernel's memory: recvmmsg that
// stops at an error after the first datagram keeps it for the next call, and no
// event tells of it.
func TestUDPConnShortBatchAfterAnError(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	arm := &once{await: server.ReadableET()}
	task := w.Spawn(arm)
	w.settle()
	udpSend(t, client, "short")
	w.ended(task)
	s := server.slot()
	s.flags |= slotRestless // as an event with an error leaves it
	n, err := server.ReadBatch(NewBatch(4, 8))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	assert.False(t, s.drained())
	w.ended(w.Spawn(&once{await: server.ReadableET()})) // to look again
	_, err = server.ReadBatch(NewBatch(4, 8))
	assert.Equal(t, ErrWouldBlock, err)
	assert.True(t, s.drained(), "an empty socket has no error left")
}

func TestUDPConnFullBufferUsesUpTheEdge(t *testing.T) {
	for name, write := range map[string]func(c *UDPConn, d Datagram) error{
		"one at a time": func(c *UDPConn, d Datagram) error {
			_, err := c.WriteTo(d.Data, d.Addr)
			return err
		},
		"in a batch": func(c *UDPConn, d Datagram) error {
			_, err := c.WriteBatch([]Datagram{d})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFaultyLoop(t)
			c := udpListen(w, udpAny4, ListenUDPOptions{})
			w.ended(w.Spawn(&once{await: c.WaitET(sm.Read | sm.Write)})) // room: the first edge
			c.slot().edges |= sm.Write                                   // another, and nobody waits
			w.faults.fail(callSendTo, syscall.EAGAIN)
			require.Equal(t, ErrWouldBlock, write(c, Datagram{Data: []byte("x"), Addr: c.LocalAddr()}))
			task := w.Spawn(&once{await: c.WritableET()})
			w.settle()
			assert.False(t, task.Ended(), "it has told of room that is gone")
			task.Destroy()
		})
	}
}

func TestUDPConnInterrupted(t *testing.T) {
	w := newFaultyLoop(t)
	w.faults.interrupted = true
	server, client := udpPair(w)
	var got []string
	task := udpCollect(w, server, 4, &got)
	w.settle()
	udpSend(t, client, "one")
	n, err := client.WriteBatch([]Datagram{{Data: []byte("two")}, {Data: []byte("three")}})
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	sender := udpListen(w, udpAny4, ListenUDPOptions{})
	_, err = sender.WriteTo([]byte("four"), server.LocalAddr())
	require.NoError(t, err)
	w.ended(task.task)
	assert.Equal(t, []string{"one", "two", "three", "four"}, got)
}

func TestUDPConnAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		listen  string
		connect netip.Addr
		options ListenUDPOptions
	}{
		"IPv4 to IPv4":                   {"127.0.0.1:0", netip.MustParseAddr("127.0.0.1"), ListenUDPOptions{}},
		"IPv4 to the IPv4 wildcard":      {"0.0.0.0:0", netip.MustParseAddr("127.0.0.1"), ListenUDPOptions{}},
		"IPv6 to IPv6":                   {"[::1]:0", netip.IPv6Loopback(), ListenUDPOptions{}},
		"IPv6 to the IPv6 wildcard":      {"[::]:0", netip.IPv6Loopback(), ListenUDPOptions{}},
		"IPv4 to the IPv6 wildcard":      {"[::]:0", netip.MustParseAddr("127.0.0.1"), ListenUDPOptions{}},
		"mapped IPv4 to the wildcard":    {"[::]:0", netip.MustParseAddr("::ffff:127.0.0.1"), ListenUDPOptions{}},
		"IPv4 to a mapped address":       {"[::ffff:127.0.0.1]:0", netip.MustParseAddr("127.0.0.1"), ListenUDPOptions{}},
		"IPv6 to the V6Only wildcard":    {"[::]:0", netip.IPv6Loopback(), ListenUDPOptions{V6Only: true}},
		"IPv6 with buffers of its own":   {"[::1]:0", netip.IPv6Loopback(), ListenUDPOptions{ReadBuffer: 1 << 16, WriteBuffer: 1 << 16}},
		"IPv4 with its port shared once": {"127.0.0.1:0", netip.MustParseAddr("127.0.0.1"), ListenUDPOptions{ReusePort: true}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			server := udpListen(w, netip.MustParseAddrPort(c.listen), c.options)
			client := udpDial(w, netip.AddrPortFrom(c.connect, server.LocalAddr().Port()), DialUDPOptions{})
			assert.Equal(t, c.connect.Unmap(), client.RemoteAddr().Addr())
			p := make([]byte, 8)
			udpSend(t, client, "ping")
			_, from, err := server.ReadFrom(p)
			require.NoError(t, err)
			assert.Equal(t, client.LocalAddr(), from)
			assert.Equal(t, c.connect.Unmap(), from.Addr(), "IPv4 is reported as IPv4")
			_, err = server.WriteTo([]byte("pong"), from)
			require.NoError(t, err)
			n, from, err := client.ReadFrom(p)
			require.NoError(t, err)
			assert.Equal(t, "pong", string(p[:n]))
			assert.Equal(t, client.RemoteAddr(), from)

			udpSend(t, client, "batch")
			ds := NewBatch(2, 8)
			n, err = server.ReadBatch(ds)
			require.NoError(t, err)
			assert.Equal(t, client.LocalAddr(), ds[0].Addr)
			_, err = server.WriteBatch(ds[:n])
			require.NoError(t, err)
			require.NoError(t, ds[0].Err)
			n, err = client.Read(p)
			require.NoError(t, err)
			assert.Equal(t, "batch", string(p[:n]))
		})
	}
}

func TestUDPConnScopedAddress(t *testing.T) {
	local := udpLinkLocal(t)
	w := newTestLoop(t)
	server := udpListen(w, netip.AddrPortFrom(local, 0), ListenUDPOptions{})
	client := udpDial(w, server.LocalAddr(), DialUDPOptions{})
	udpSend(t, client, "one", "two")
	p := make([]byte, 8)
	_, from, err := server.ReadFrom(p)
	require.NoError(t, err)
	assert.Equal(t, client.LocalAddr(), from)
	assert.NotEmpty(t, from.Addr().Zone(), "an answer needs the zone")
	ds := NewBatch(1, 8)
	_, err = server.ReadBatch(ds)
	require.NoError(t, err)
	assert.Equal(t, from, ds[0].Addr)
	_, err = server.WriteTo(p, from)
	require.NoError(t, err)
	_, err = client.Read(p)
	require.NoError(t, err)
}

// udpLinkLocal is a link-local address of this machine, with its interface's
// name as the zone.
func udpLinkLocal(t *testing.T) netip.Addr {
	interfaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		require.NoError(t, err)
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
				ip, _ := netip.AddrFromSlice(n.IP)
				return ip.WithZone(i.Name)
			}
		}
	}
	t.Skip("SKIPPED: this machine has no link-local IPv6 address")
	return netip.Addr{}
}

func TestListenUDPV6Only(t *testing.T) {
	w := newTestLoop(t)
	six := udpListen(w, netip.MustParseAddrPort("[::]:0"), ListenUDPOptions{V6Only: true})
	four := udpListen(w, netip.AddrPortFrom(netip.IPv4Unspecified(), six.LocalAddr().Port()), ListenUDPOptions{})
	client := udpDial(w, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), six.LocalAddr().Port()), DialUDPOptions{})
	udpSend(t, client, "for IPv4")
	_, _, err := six.ReadFrom(make([]byte, 8))
	assert.Equal(t, ErrWouldBlock, err)
	_, _, err = four.ReadFrom(make([]byte, 8))
	assert.NoError(t, err)
}

func TestListenUDPReusePort(t *testing.T) {
	w := newTestLoop(t)
	first := udpListen(w, udpAny4, ListenUDPOptions{ReusePort: true})
	second := udpListen(w, first.LocalAddr(), ListenUDPOptions{ReusePort: true})
	const senders = 64
	for range senders {
		udpSend(t, udpDial(w, first.LocalAddr(), DialUDPOptions{}), "x")
	}
	ds := NewBatch(senders, 8)
	count := 0
	for _, c := range []*UDPConn{first, second} {
		n, err := c.ReadFromET(ds)
		if err != ErrWouldBlock {
			require.NoError(t, err)
		}
		count += n
	}
	assert.Equal(t, senders, count)

	_, err := ListenUDP(w.Loop, first.LocalAddr(), ListenUDPOptions{})
	require.ErrorIs(t, err, syscall.EADDRINUSE, "all must share it")
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.Equal(t, "listen", op.Op)
	assert.Equal(t, first.LocalAddr(), op.Addr.(*net.UDPAddr).AddrPort())
}

func TestUDPConnOpenErrors(t *testing.T) {
	w := newFaultyLoop(t)
	taken := udpListen(w, udpAny4, ListenUDPOptions{}).LocalAddr()
	before := openFDs()
	for name, c := range map[string]struct {
		script func()
		open   func() (*UDPConn, error)
		err    error
	}{
		"no address to listen on": {nil, func() (*UDPConn, error) { return ListenUDP(w.Loop, netip.AddrPort{}, ListenUDPOptions{}) }, syscall.EINVAL},
		"no address to dial":      {nil, func() (*UDPConn, error) { return DialUDP(w.Loop, netip.AddrPort{}, DialUDPOptions{}) }, syscall.EINVAL},
		"an address of someone else": {nil, func() (*UDPConn, error) {
			return ListenUDP(w.Loop, netip.MustParseAddrPort("192.0.2.1:9"), ListenUDPOptions{})
		}, syscall.EADDRNOTAVAIL},
		"a local address that is taken": {nil, func() (*UDPConn, error) {
			return DialUDP(w.Loop, taken, DialUDPOptions{Local: taken})
		}, syscall.EADDRINUSE},
		"no descriptors to listen with": {func() { w.faults.fail(callSocket, syscall.EMFILE) }, func() (*UDPConn, error) { return ListenUDP(w.Loop, udpAny4, ListenUDPOptions{}) }, syscall.EMFILE},
		"no descriptors to dial with":   {func() { w.faults.fail(callSocket, syscall.EMFILE) }, func() (*UDPConn, error) { return DialUDP(w.Loop, taken, DialUDPOptions{}) }, syscall.EMFILE},
		"a network that is not there":   {func() { w.faults.fail(callConnect, syscall.ENETUNREACH) }, func() (*UDPConn, error) { return DialUDP(w.Loop, taken, DialUDPOptions{}) }, syscall.ENETUNREACH},
		"a peer that is not told":       {func() { w.faults.fail(callAddr, syscall.ENOBUFS) }, func() (*UDPConn, error) { return DialUDP(w.Loop, taken, DialUDPOptions{}) }, syscall.ENOBUFS},
		"no such read buffer, listening": {func() { w.faults.fail(callSetOption, syscall.ENOBUFS) }, func() (*UDPConn, error) {
			return ListenUDP(w.Loop, udpAny4, ListenUDPOptions{ReadBuffer: 1})
		}, syscall.ENOBUFS},
		"no such write buffer, dialling": {func() { w.faults.fail(callSetOption, 0, syscall.ENOBUFS) }, func() (*UDPConn, error) {
			return DialUDP(w.Loop, taken, DialUDPOptions{ReadBuffer: 1, WriteBuffer: 1})
		}, syscall.ENOBUFS},
	} {
		t.Run(name, func(t *testing.T) {
			w.owner.claim()
			if c.script != nil {
				c.script()
			}
			conn, err := c.open()
			assert.Nil(t, conn)
			require.ErrorIs(t, err, c.err)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			assert.Equal(t, "udp", op.Net)
		})
	}
	w.owner.claim()
	assert.ElementsMatch(t, before, openFDs(), "a failed attempt keeps no descriptor")
}

func TestDialUDPLocalAddress(t *testing.T) {
	w := newTestLoop(t)
	server := udpListen(w, netip.MustParseAddrPort("[::]:0"), ListenUDPOptions{})
	local := netip.MustParseAddrPort("127.0.0.2:0")
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), server.LocalAddr().Port())
	probe, err := ListenUDP(w.Loop, local, ListenUDPOptions{})
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Skip("SKIPPED: this machine has no 127.0.0.2")
	}
	require.NoError(t, err)
	require.NoError(t, probe.Close())
	client := udpDial(w, to, DialUDPOptions{Local: local})
	assert.Equal(t, local.Addr(), client.LocalAddr().Addr())
	udpSend(t, client, "x")
	_, from, err := server.ReadFrom(make([]byte, 8))
	require.NoError(t, err)
	assert.Equal(t, client.LocalAddr(), from)
}

func TestUDPConnDeadlines(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	p, ds := make([]byte, 8), NewBatch(2, 8)

	udpSend(t, client, "there")
	require.NoError(t, server.SetDeadline(time.Now().Add(-time.Second)))
	_, _, err := server.ReadFrom(p)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "also when there is something to read")
	_, err = server.Read(p)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = server.ReadBatch(ds)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = server.ReadFromET(ds)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = server.WriteTo(p, client.LocalAddr())
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = server.Write(p)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	n, err := server.WriteBatch(ds)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	assert.Zero(t, n)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	assert.True(t, op.Timeout())

	require.NoError(t, server.SetReadDeadline(time.Time{}))
	_, _, err = server.ReadFrom(p)
	assert.NoError(t, err, "the datagram is still there")
	_, err = server.WriteTo(p, client.LocalAddr())
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "writing has a deadline of its own")
	require.NoError(t, server.SetWriteDeadline(time.Time{}))
	_, err = server.WriteTo(p, client.LocalAddr())
	assert.NoError(t, err)

	waiting := &once{await: server.Readable()}
	task := w.Spawn(waiting)
	w.settle()
	require.NoError(t, server.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	w.ended(task) // asks again
	waiting = &once{await: server.Readable()}
	start := time.Now()
	w.ended(w.Spawn(waiting))
	assert.ErrorIs(t, waiting.waitErr, os.ErrDeadlineExceeded)
	assert.Less(t, time.Since(start), patience)
	when, ok := server.Wait(sm.Read | sm.Write).Deadline()
	assert.True(t, ok)
	assert.WithinDuration(t, start, when, time.Second)
	_, ok = server.WritableET().Deadline()
	assert.False(t, ok)
}

func TestUDPConnCloseWhileWaiting(t *testing.T) {
	w := newTestLoop(t)
	server := udpListen(w, udpAny4, ListenUDPOptions{})
	readers := []*once{{await: server.Readable()}, {await: server.Readable()}, {await: server.Wait(sm.Read)}}
	var tasks []*sm.Task
	for _, r := range readers {
		tasks = append(tasks, w.Spawn(r))
	}
	w.settle()
	require.NoError(t, server.Close())
	w.ended(tasks...)
	for _, r := range readers {
		assert.ErrorIs(t, r.waitErr, net.ErrClosed)
	}
}

func TestUDPConnAfterClose(t *testing.T) {
	w := newTestLoop(t)
	_, client := udpPair(w)
	peer := client.RemoteAddr()
	assert.Same(t, w.Loop, client.Loop())
	assert.Positive(t, client.FD())
	require.NoError(t, client.Close())
	require.NoError(t, client.Close(), "closing twice does nothing")
	assert.Equal(t, -1, client.FD())
	assert.False(t, client.LocalAddr().IsValid())
	assert.Equal(t, peer, client.RemoteAddr())

	p, ds := make([]byte, 8), NewBatch(1, 8)
	for name, call := range map[string]func() error{
		"ReadFrom":         func() error { _, _, err := client.ReadFrom(p); return err },
		"Read":             func() error { _, err := client.Read(p); return err },
		"ReadBatch":        func() error { _, err := client.ReadBatch(ds); return err },
		"ReadFromET":       func() error { _, err := client.ReadFromET(ds); return err },
		"WriteTo":          func() error { _, err := client.WriteTo(p, peer); return err },
		"Write":            func() error { _, err := client.Write(p); return err },
		"WriteBatch":       func() error { _, err := client.WriteBatch(ds); return err },
		"SetDeadline":      func() error { return client.SetDeadline(time.Now()) },
		"SetReadDeadline":  func() error { return client.SetReadDeadline(time.Now()) },
		"SetWriteDeadline": func() error { return client.SetWriteDeadline(time.Now()) },
		"SetReadBuffer":    func() error { return client.SetReadBuffer(1 << 16) },
		"SetWriteBuffer":   func() error { return client.SetWriteBuffer(1 << 16) },
		"SyscallConn":      func() error { _, err := client.SyscallConn(); return err },
	} {
		err := call()
		assert.ErrorIs(t, err, net.ErrClosed, name)
		var op *net.OpError
		require.ErrorAs(t, err, &op, name)
		assert.Equal(t, "udp", op.Net, name)
	}
	waiting := &once{await: client.Readable()}
	w.ended(w.Spawn(waiting))
	assert.ErrorIs(t, waiting.waitErr, net.ErrClosed)
}

func TestUDPConnOptions(t *testing.T) {
	w := newTestLoop(t)
	c := udpListen(w, udpAny4, ListenUDPOptions{ReadBuffer: 50000, WriteBuffer: 60000})
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	sizes := func() (read, write int) {
		require.NoError(t, raw.Control(func(fd uintptr) {
			read, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
			require.NoError(t, err)
			write, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
			require.NoError(t, err)
		}))
		return read, write
	}
	read, write := sizes()
	assert.GreaterOrEqual(t, read, 50000)
	assert.GreaterOrEqual(t, write, 60000)
	require.NoError(t, c.SetReadBuffer(20000))
	require.NoError(t, c.SetWriteBuffer(30000))
	read, write = sizes()
	assert.Less(t, read, 50000)
	assert.LessOrEqual(t, write, 60000)
	assert.NotZero(t, c.slot().flags&slotForeign)
}

func TestUDPConnOfAnotherGoroutine(t *testing.T) {
	w := newTestLoop(t)
	_, client := udpPair(w)
	for name, call := range map[string]func(){
		"UDPConn.ReadFrom":    func() { _, _, _ = client.ReadFrom(nil) },
		"UDPConn.Read":        func() { _, _ = client.Read(nil) },
		"UDPConn.ReadBatch":   func() { _, _ = client.ReadBatch(nil) },
		"UDPConn.WriteTo":     func() { _, _ = client.WriteTo(nil, udpAny4) },
		"UDPConn.Write":       func() { _, _ = client.Write(nil) },
		"UDPConn.WriteBatch":  func() { _, _ = client.WriteBatch(nil) },
		"UDPConn.SetDeadline": func() { _ = client.SetReadDeadline(time.Now()) },
		"UDPConn.Set":         func() { _ = client.SetReadBuffer(1) },
		"UDPConn.SyscallConn": func() { _, _ = client.SyscallConn() },
		"UDPConn.Close":       func() { _ = client.Close() },
		"ListenUDP":           func() { _, _ = ListenUDP(w.Loop, udpAny4, ListenUDPOptions{}) },
		"DialUDP":             func() { _, _ = DialUDP(w.Loop, udpAny4, DialUDPOptions{}) },
	} {
		caught := make(chan any)
		go func() {
			defer func() { caught <- recover() }()
			call()
		}()
		assert.Contains(t, <-caught, "stepio: "+name+": called on goroutine", name)
	}
}

func TestUDPConnBudgetOfOperations(t *testing.T) {
	w := newTestLoop(t, WithBudget(4, 1<<20))
	server, client := udpPair(w)
	udpSend(t, client, udpNumbered(10)...)
	var steps [][]string
	bystander := w.spawn(func(*sm.Task) sm.Await {
		if len(steps) >= 3 {
			return sm.Done
		}
		return sm.Yield
	})
	task := w.spawn(func(t *sm.Task) sm.Await {
		var got []string
		for {
			n, _, err := server.ReadFrom(t.Scratch())
			if err == ErrWouldBlock {
				break
			}
			got = append(got, string(t.Scratch()[:n]))
		}
		steps = append(steps, got)
		if len(steps) == 3 {
			return sm.Done
		}
		return server.ReadableET() // whatever it waits for, it is stepped again
	})
	w.ended(task.task, bystander.task)
	require.Len(t, steps, 3)
	assert.Equal(t, udpNumbered(10), append(append(steps[0], steps[1]...), steps[2]...))
	assert.Len(t, steps[0], 4)
	assert.Len(t, steps[1], 4)
	assert.GreaterOrEqual(t, bystander.steps, 3, "the others ran in between")
}

func TestUDPConnBudgetOfABatch(t *testing.T) {
	w := newTestLoop(t)
	// Short datagrams cost the step more than their bytes.
	const share = sm.DefaultMaxBytes / datagramCost
	const count = share + maxBatch
	server := udpListen(w, udpAny4, ListenUDPOptions{ReadBuffer: 1 << 20})
	client := udpDial(w, server.LocalAddr(), DialUDPOptions{})
	udpSend(t, client, udpNumbered(count)...)
	ds := NewBatch(2*count, 32)
	var sizes []int
	var got []string
	task := w.spawn(func(*sm.Task) sm.Await {
		n, err := server.ReadFromET(ds)
		if err == nil {
			sizes = append(sizes, n)
			got = append(got, udpTexts(ds[:n])...)
			if len(got) == count {
				return sm.Done
			}
		}
		return server.ReadableET()
	})
	w.ended(task.task)
	assert.Equal(t, []int{share, maxBatch}, sizes, "the budget ended the first drain, and the edge was not lost")
	assert.Equal(t, udpNumbered(count), got)

	var sent []int
	left := make([]Datagram, count)
	task = w.spawn(func(*sm.Task) sm.Await {
		n, err := client.WriteBatch(left)
		left, sent = left[n:], append(sent, n)
		if err == ErrWouldBlock {
			return client.Writable()
		}
		return sm.Done
	})
	w.ended(task.task)
	assert.Equal(t, []int{share, maxBatch}, sent, "and a batch of writes")
}

func TestUDPConnBudgetOfWrites(t *testing.T) {
	w := newTestLoop(t, WithBudget(4, 1<<20))
	server, client := udpPair(w)
	var counts []int
	sent := 0
	task := w.spawn(func(*sm.Task) sm.Await {
		n := 0
		for sent < 10 {
			_, err := client.Write([]byte("x"))
			if err == ErrWouldBlock {
				counts = append(counts, n)
				return client.Writable()
			}
			n++
			sent++
		}
		counts = append(counts, n)
		return sm.Done
	})
	w.ended(task.task)
	assert.Equal(t, []int{4, 4, 2}, counts)

	// Each datagram that fails is an operation: a batch of them ends too.
	bad := make([]Datagram, 10)
	for i := range bad {
		bad[i].Addr = netip.MustParseAddrPort("127.0.0.1:0")
	}
	var batches []int
	left := bad
	task = w.spawn(func(*sm.Task) sm.Await {
		n, err := server.WriteBatch(left)
		left = left[n:]
		batches = append(batches, n)
		if err == ErrWouldBlock {
			return server.Writable()
		}
		return sm.Done
	})
	w.ended(task.task)
	assert.Equal(t, []int{4, 4, 2}, batches)
	for i := range bad {
		assert.ErrorIs(t, bad[i].Err, syscall.EINVAL)
	}
}

func TestUDPConnEdgeWithoutAWaiter(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	arm := &once{await: server.ReadableET()}
	task := w.Spawn(arm)
	w.settle()
	udpSend(t, client, "first")
	w.ended(task)
	_, _, err := server.ReadFrom(make([]byte, 16))
	require.NoError(t, err)
	_, _, err = server.ReadFrom(make([]byte, 16))
	require.Equal(t, ErrWouldBlock, err)

	udpSend(t, client, "while nobody waits")
	w.settle()
	later := &once{await: server.ReadableET()}
	w.ended(w.Spawn(later))
	assert.Equal(t, sm.Read, later.ready)
	_, _, err = server.ReadFrom(make([]byte, 32))
	require.NoError(t, err)
	_, _, err = server.ReadFrom(make([]byte, 32))
	require.Equal(t, ErrWouldBlock, err)

	stale := &once{await: server.ReadableET()}
	task = w.Spawn(stale)
	w.settle()
	assert.False(t, task.Ended(), "an edge is taken once")
	task.Destroy()
}

func TestUDPConnEdgeOutlivesAFullBatch(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	ds := NewBatch(2, 32)
	var got []string
	task := w.spawn(func(*sm.Task) sm.Await {
		n, err := server.ReadFromET(ds) // once a step: the rest has sent its edge already
		if err == nil {
			got = append(got, udpTexts(ds[:n])...)
			if len(got) == 7 {
				return sm.Done
			}
		}
		return server.ReadableET()
	})
	w.settle()
	udpSend(t, client, udpNumbered(7)...)
	w.ended(task.task)
	assert.Equal(t, udpNumbered(7), got)
}

func TestUDPConnManyWritersAreAllResumed(t *testing.T) {
	const writers = 20
	for name, write := range map[string]func(c *UDPConn, p []byte, to netip.AddrPort) error{
		"one at a time": func(c *UDPConn, p []byte, to netip.AddrPort) error {
			_, err := c.WriteTo(p, to)
			return err
		},
		"in batches": func(c *UDPConn, p []byte, to netip.AddrPort) error {
			_, err := c.WriteBatch([]Datagram{{Data: p, Addr: to}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newFaultyLoop(t)
			server := udpListen(w, udpAny4, ListenUDPOptions{})
			shared := udpListen(w, udpAny4, ListenUDPOptions{})
			full, events := true, 0
			w.faults.onWait = func(evs []event) (out []event) {
				for _, ev := range evs {
					if full && ev.ready&readyWrite != 0 {
						continue
					}
					events++
					out = append(out, ev)
				}
				return out
			}
			for range writers {
				w.faults.fail(callSendTo, syscall.EAGAIN)
			}
			var tasks []*sm.Task
			for i := range writers {
				f := w.spawn(func(*sm.Task) sm.Await {
					err := write(shared, []byte{byte(i)}, server.LocalAddr())
					if err == ErrWouldBlock {
						return shared.Writable()
					}
					require.NoError(t, err)
					return sm.Done
				})
				tasks = append(tasks, f.task)
			}
			w.turns(3)
			assert.Equal(t, writers, w.Tasks(), "all wait for room")
			full, events = false, 0
			w.turns(1)
			w.ended(tasks...)
			assert.Equal(t, 1, events, "one event for all of them")
			ds := NewBatch(writers+1, 4)
			n, err := server.ReadFromET(ds)
			require.NoError(t, err)
			assert.Equal(t, writers, n)
			for i, d := range ds[:n] {
				assert.Equal(t, []byte{byte(i)}, d.Data, "in the order in which they waited")
			}
		})
	}
}

func TestUDPConnWriteBatchGoesOnAfterAFullBuffer(t *testing.T) {
	w := newFaultyLoop(t)
	server := udpListen(w, udpAny4, ListenUDPOptions{})
	sender := udpListen(w, udpAny4, ListenUDPOptions{})
	w.faults.fail(callSendTo, 0, 0, syscall.EAGAIN, syscall.EAGAIN, 0, syscall.EINVAL)
	ds := make([]Datagram, 6)
	for i := range ds {
		ds[i] = Datagram{Data: fmt.Appendf(nil, "%d", i), Addr: server.LocalAddr()}
	}
	var counts []int
	left := ds
	task := w.spawn(func(*sm.Task) sm.Await {
		n, err := sender.WriteBatch(left)
		counts, left = append(counts, n), left[n:]
		if err == ErrWouldBlock {
			return sender.Writable()
		}
		require.NoError(t, err)
		return sm.Done
	})
	w.until("the batch is sent", func() bool { return task.task.Ended() || len(counts) > 10 })
	assert.Equal(t, []int{2, 0, 4}, counts)
	assert.ErrorIs(t, ds[3].Err, syscall.EINVAL)
	in := NewBatch(8, 4)
	n, err := server.ReadFromET(in)
	require.NoError(t, err)
	assert.Subset(t, udpTexts(in[:n]), []string{"0", "1", "2", "4", "5"})
	assert.NotContains(t, udpTexts(in[:n]), "3")
}

// TestUDPConnEcho is a whole server: many clients of package net, each its own
// goroutine, against one socket that any number of tasks answer on.
func TestUDPConnEcho(t *testing.T) {
	for name, serve := range map[string]func(c *UDPConn, ds []Datagram) func(t *sm.Task) sm.Await{
		"one at a time": func(c *UDPConn, _ []Datagram) func(t *sm.Task) sm.Await {
			var answer []byte
			var to netip.AddrPort
			return func(t *sm.Task) sm.Await {
				for {
					if answer == nil {
						n, from, err := c.ReadFrom(t.Scratch())
						if err == ErrWouldBlock {
							return c.Readable()
						}
						answer, to = append([]byte{}, t.Scratch()[:n]...), from
					}
					if _, err := c.WriteTo(answer, to); err == ErrWouldBlock {
						return c.Writable()
					}
					answer = nil
				}
			}
		},
		"in batches": func(c *UDPConn, ds []Datagram) func(t *sm.Task) sm.Await {
			var left []Datagram
			return func(t *sm.Task) sm.Await {
				for {
					if len(left) == 0 {
						n, err := c.ReadFromET(ds)
						if err == ErrWouldBlock {
							return c.ReadableET()
						}
						left = ds[:n]
					}
					n, err := c.WriteBatch(left)
					left = left[n:]
					if err == ErrWouldBlock {
						return c.WritableET()
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			server := udpListen(w, netip.MustParseAddrPort("[::]:0"), ListenUDPOptions{})
			w.spawn(serve(server, NewBatch(16, 1500)))
			port := server.LocalAddr().Port()
			var clients sync.WaitGroup
			w.alongside(func() {
				for i := range 8 {
					clients.Go(func() { udpAsk(t, i, port) })
				}
				clients.Wait()
			})
		})
	}
}

// udpAsk is one client. Over the loopback nothing is lost while so little is on
// its way.
func udpAsk(t *testing.T, id int, port uint16) {
	to := netip.AddrPortFrom([]netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}[id%2], port)
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if !assert.NoError(t, err) {
		return
	}
	defer func() { assert.NoError(t, c.Close()) }()
	assert.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	p := make([]byte, 64)
	for i := range 100 {
		question := fmt.Sprintf("client %d question %d", id, i)
		_, err := c.Write([]byte(question))
		assert.NoError(t, err)
		n, err := c.Read(p)
		if !assert.NoError(t, err) || !assert.Equal(t, question, string(p[:n])) {
			return
		}
	}
}

// A datagram that was read may have others behind it, of which no second edge tells.
func TestUDPConnReadFromLeavesTheEdgeToTheNextWait(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	first := w.spawn(func(task *sm.Task) sm.Await {
		if task.Ready() == 0 {
			return server.ReadableET()
		}
		_, _, err := server.ReadFrom(task.Scratch())
		require.NoError(t, err)
		return sm.Done
	})
	w.turns(1)
	udpSend(t, client, "one", "two")
	w.ended(first.task)
	o := &once{await: server.ReadableET()}
	w.ended(w.Spawn(o))
	assert.Equal(t, sm.Read, o.ready)
}

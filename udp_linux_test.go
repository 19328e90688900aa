package stepio

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/sm"
)

// udpUnchecked turns the check mode off, which allocates.
func udpUnchecked(c *loopConfig) { c.check = false }

func TestUDPConnBatchIsOneSyscall(t *testing.T) {
	for name, c := range map[string]struct{ count, reads, writes int }{
		"one datagram":   {1, 1, 1},
		"a whole batch":  {64, 1, 1},
		"one more":       {65, 2, 2},
		"three batches":  {192, 3, 3},
		"and a fraction": {193, 4, 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			server := udpListen(w, udpAny4, ListenUDPOptions{ReadBuffer: 1 << 20})
			client := udpDial(w, server.LocalAddr(), DialUDPOptions{})
			calls := &w.batches().calls
			out := make([]Datagram, c.count)
			for i, text := range udpNumbered(c.count) {
				out[i].Data = []byte(text)
			}
			n, err := client.WriteBatch(out)
			require.NoError(t, err)
			assert.Equal(t, c.count, n)
			assert.Equal(t, c.writes, *calls, "sendmmsg")

			*calls = 0
			in := NewBatch(c.count, 32)
			n, err = server.ReadFromET(in)
			require.NoError(t, err)
			assert.Equal(t, udpNumbered(c.count), udpTexts(in[:n]))
			assert.Equal(t, c.reads, *calls, "recvmmsg")
		})
	}
}

// TestUDPConnShortBatchNeedsNoProbe looks at what a read knows when a batch was
// not full: the socket is empty.
func TestUDPConnShortBatchNeedsNoProbe(t *testing.T) {
	for name, wait := range map[string]func(c *UDPConn) sm.Await{
		"level-triggered": func(c *UDPConn) sm.Await { return c.Readable() },
		"edge-triggered":  func(c *UDPConn) sm.Await { return c.ReadableET() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t)
			server, client := udpPair(w)
			ds := NewBatch(8, 32)
			got := 0
			w.spawn(func(*sm.Task) sm.Await {
				for {
					n, err := server.ReadFromET(ds)
					if err == ErrWouldBlock {
						return wait(server)
					}
					require.NoError(t, err)
					got += n
				}
			})
			w.settle()
			calls := &w.batches().calls
			for range 5 {
				*calls = 0
				before := got
				udpSend(t, client, "a", "b", "c")
				w.until("they are read", func() bool { return got == before+3 })
				assert.Equal(t, 1, *calls)
			}
		})
	}
}

// TestUDPConnSourcePortZero sends what a socket cannot: a datagram that has no
// port to answer to.
func TestUDPConnSourcePortZero(t *testing.T) {
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if errors.Is(err, unix.EPERM) {
		t.Skip("SKIPPED: raw sockets are for root")
	}
	require.NoError(t, err)
	defer func() { assert.NoError(t, unix.Close(raw)) }()

	w := newTestLoop(t)
	server := udpListen(w, udpAny4, ListenUDPOptions{})
	client := udpDial(w, server.LocalAddr(), DialUDPOptions{})
	zero := netip.AddrPortFrom(udpAny4.Addr(), 0)
	send := func(text string) {
		packet := make([]byte, 8+len(text)) // ports, length, no checksum
		binary.BigEndian.PutUint16(packet[2:], server.LocalAddr().Port())
		binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)))
		copy(packet[8:], text)
		require.NoError(t, unix.Sendto(raw, packet, 0, &unix.SockaddrInet4{Addr: udpAny4.Addr().As4()}))
	}
	hear := func(want ...string) {
		t.Helper()
		for _, text := range want {
			p := make([]byte, 16)
			n, err := client.Read(p)
			require.NoError(t, err)
			assert.Equal(t, text, string(p[:n]))
		}
		_, err := client.Read(make([]byte, 1))
		assert.Equal(t, ErrWouldBlock, err)
	}

	udpSend(t, client, "one")
	send("from port 0")
	udpSend(t, client, "two")
	var failed []error
	answered := 0
	single := w.spawn(func(t *sm.Task) sm.Await {
		for answered < 3 {
			n, from, err := server.ReadFrom(t.Scratch())
			if err == ErrWouldBlock {
				return server.Readable()
			}
			answered++
			if _, err = server.WriteTo(t.Scratch()[:n], from); err != nil {
				assert.Equal(w.t, zero, from)
				failed = append(failed, err)
			}
		}
		return sm.Done
	})
	w.ended(single.task)
	require.Len(t, failed, 1)
	assert.ErrorIs(t, failed[0], unix.EINVAL)
	hear("one", "two")

	udpSend(t, client, "one")
	send("from port 0")
	udpSend(t, client, "two")
	ds := NewBatch(8, 16)
	n, err := server.ReadFromET(ds)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	assert.Equal(t, zero, ds[1].Addr)
	n, err = server.WriteBatch(ds[:n])
	require.NoError(t, err)
	assert.Equal(t, 3, n)
	assert.NoError(t, ds[0].Err)
	assert.ErrorIs(t, ds[1].Err, unix.EINVAL)
	assert.NoError(t, ds[2].Err)
	hear("one", "two")
}

func TestUDPConnAllocatesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		addr netip.AddrPort
		step func(server *UDPConn) func(t *sm.Task) sm.Await
	}{
		"one at a time, IPv4": {udpAny4, udpEchoOne},
		"one at a time, IPv6": {udpAny6, udpEchoOne},
		"in batches, IPv4":    {udpAny4, udpEchoBatch},
		"in batches, IPv6":    {udpAny6, udpEchoBatch},
		"edges, IPv4":         {udpAny4, udpEchoEdge},
		"edges, IPv6":         {udpAny6, udpEchoEdge},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestLoop(t, udpUnchecked)
			server := udpListen(w, c.addr, ListenUDPOptions{})
			client := udpDial(w, server.LocalAddr(), DialUDPOptions{})
			w.spawn(c.step(server))
			p := []byte("hello")
			answers := NewBatch(8, 16)
			round := func() {
				for range 3 {
					if _, err := client.Write(p); err != nil {
						panic(err)
					}
				}
				for got := 0; got < 3; {
					if err := w.turn(); err != nil {
						panic(err)
					}
					n, err := client.ReadBatch(answers)
					if err != nil && err != ErrWouldBlock {
						panic(err)
					}
					got += n
				}
			}
			round()
			w.settle()
			assert.Zero(t, testing.AllocsPerRun(100, round))
		})
	}
}

func udpEchoOne(server *UDPConn) func(t *sm.Task) sm.Await {
	return func(t *sm.Task) sm.Await {
		for {
			n, from, err := server.ReadFrom(t.Scratch())
			if err == ErrWouldBlock {
				return server.Readable()
			}
			if _, err := server.WriteTo(t.Scratch()[:n], from); err != nil {
				panic(err)
			}
		}
	}
}

func udpEchoBatch(server *UDPConn) func(t *sm.Task) sm.Await {
	ds := NewBatch(8, 16)
	return func(*sm.Task) sm.Await {
		n, err := server.ReadBatch(ds)
		if err == ErrWouldBlock {
			return server.Readable()
		}
		if _, err := server.WriteBatch(ds[:n]); err != nil {
			panic(err)
		}
		return server.Readable()
	}
}

func udpEchoEdge(server *UDPConn) func(t *sm.Task) sm.Await {
	ds := NewBatch(8, 16)
	return func(*sm.Task) sm.Await {
		for {
			n, err := server.ReadFromET(ds)
			if err == ErrWouldBlock {
				return server.ReadableET()
			}
			if _, err := server.WriteBatch(ds[:n]); err != nil {
				panic(err)
			}
		}
	}
}

// TestBatchBuffersLetGo looks for pointers to the caller's memory that would
// keep it from being collected.
func TestBatchBuffersLetGo(t *testing.T) {
	w := newTestLoop(t)
	server, client := udpPair(w)
	out := []Datagram{{Data: []byte("a")}, {Data: []byte("b")}}
	_, err := client.WriteBatch(out)
	require.NoError(t, err)
	_, err = server.ReadBatch(NewBatch(3, 8))
	require.NoError(t, err)
	for i := range w.batch.vectors {
		assert.Nil(t, w.batch.vectors[i].Base)
	}
}

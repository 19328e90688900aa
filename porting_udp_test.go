//go:build linux || darwin

package stepio_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The row of docs/porting.md on datagrams.

// region: udp
type udpEcho struct {
	sock  *stepio.UDPConn
	reply []byte // kept only while the socket takes no more
	to    netip.AddrPort
	state udpEchoState
}

func (u *udpEcho) Step(t *sm.Task) sm.Await {
	for {
		switch u.state {
		case udpReceiving:
			n, from, err := u.sock.ReadFrom(t.Scratch())
			if err == stepio.ErrWouldBlock {
				return u.sock.Readable()
			}
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return sm.Done
			}
			if err != nil {
				continue // of one datagram, such as ErrTruncated: the next may do
			}
			_, err = u.sock.WriteTo(t.Scratch()[:n], from)
			if err == stepio.ErrWouldBlock {
				u.reply, u.to = append(u.reply, t.Scratch()[:n]...), from
				u.state = udpSending
			}
			// Another error is this datagram's alone, such as one that came from port 0.
		case udpSending:
			if _, err := u.sock.WriteTo(u.reply, u.to); err == stepio.ErrWouldBlock {
				return u.sock.Writable()
			}
			u.reply = nil
			u.state = udpReceiving
		default:
			panic(fmt.Sprintf("udpEcho.Step: state %d", u.state))
		}
	}
}

func (u *udpEcho) Close() error { return u.sock.Close() }

// endregion

type udpEchoState uint8

const (
	udpReceiving udpEchoState = iota // waits for a datagram
	udpSending                       // waits until the socket takes the answer
)

// region: udp, edge-triggered
type udpEchoBatches struct {
	sock  *stepio.UDPConn
	batch []stepio.Datagram // stepio.NewBatch(64, 2048): a buffer for each
	left  []stepio.Datagram // to be sent
}

func (u *udpEchoBatches) Step(*sm.Task) sm.Await {
	for {
		n, err := u.sock.WriteBatch(u.left)
		u.left = u.left[n:] // the Err of each says whether it was sent
		if err == stepio.ErrWouldBlock {
			return u.sock.WritableET()
		}
		if err != nil {
			return sm.Done // closed
		}
		n, err = u.sock.ReadFromET(u.batch)
		switch {
		case err == stepio.ErrWouldBlock:
			return u.sock.ReadableET() // only now
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return sm.Done
		case err != nil:
			continue // of one datagram
		}
		u.left = u.batch[:n] // one that was longer than its buffer is marked Truncated
	}
}

func (u *udpEchoBatches) Close() error { return u.sock.Close() }

// endregion

func TestPortingUDP(t *testing.T) {
	for _, edge := range []bool{false, true} {
		g := newGuide(t)
		loop := g.Loop
		bind := func() (*stepio.UDPConn, error) {
			// region: udp, bind
			sock, err := stepio.ListenUDP(loop, netip.MustParseAddrPort("127.0.0.1:0"),
				stepio.ListenUDPOptions{ReusePort: true})
			if err != nil {
				return nil, err
			}
			// endregion
			return sock, nil
		}
		sock, err := bind()
		require.NoError(t, err)
		addr := sock.LocalAddr()
		var frame sm.Frame = &udpEcho{sock: sock}
		if edge {
			frame = &udpEchoBatches{sock: sock, batch: stepio.NewBatch(64, 2048)}
		}
		task := g.Spawn(frame)
		g.start()
		answers := exchange(t, addr, "one", "", "three")
		assert.Equal(t, []string{"one", "", "three"}, answers)
		g.on(func() { task.Destroy() })
	}
}

// exchange sends datagrams and returns what comes back.
func exchange(t *testing.T, addr netip.AddrPort, messages ...string) (answers []string) {
	conn, err := net.Dial("udp", addr.String())
	require.NoError(t, err)
	defer func() { assert.NoError(t, conn.Close()) }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(longest)))
	for _, m := range messages {
		_, err := conn.Write([]byte(m))
		require.NoError(t, err)
	}
	buf := make([]byte, 2048)
	for range messages {
		n, err := conn.Read(buf)
		require.NoError(t, err)
		answers = append(answers, string(buf[:n]))
	}
	return answers
}

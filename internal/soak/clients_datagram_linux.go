package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/stepio-go/stepio/internal/loopback"
)

// Clients of the echo servers over UDP. A datagram may be lost when a restart
// closes the socket that it waits in, and only then: there is room for all that
// these clients have under way.

func toUDP(t *traffic) netip.AddrPort      { return t.addrs.UDP }
func toUDPBatch(t *traffic) netip.AddrPort { return t.addrs.UDPBatch }

const (
	datagramHead = 8 // the stream that the rest is of
	datagramSize = 1400
	lostAfter    = 3 * time.Second // without an answer, during a restart
)

// asksByDatagram is a client of an echo server over UDP: it sends so many
// datagrams at a time, and each must come back.
func asksByDatagram(to where, batch int) func(*worker) error {
	return func(w *worker) error {
		local := netip.AddrPortFrom(loopback.Own(), 0)
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(local), net.UDPAddrFromAddrPort(to(w.traffic)))
		if err != nil {
			return err
		}
		w.opened.Add(1)
		for range 1 + w.rnd.IntN(300) {
			if !w.pace() {
				break
			}
			if whole, err := w.exchangeDatagrams(conn, batch); err != nil || !whole {
				return errors.Join(err, conn.Close()) // a new socket: what comes late is not for it
			}
		}
		w.finished.Add(1)
		return conn.Close()
	}
}

// exchangeDatagrams sends a batch and has it back, in any order. It is not whole
// when a restart may have lost some of it.
func (w *worker) exchangeDatagrams(conn *net.UDPConn, batch int) (whole bool, err error) {
	epoch, begun := w.traffic.epoch.Load(), time.Now()
	under := make(map[stream]int, batch) // what is under way, and its size
	var buf [datagramSize + 1]byte
	for range batch {
		key, n := stream(w.rnd.Uint64()), datagramHead+w.rnd.IntN(datagramSize-datagramHead+1)
		binary.LittleEndian.PutUint64(buf[:], uint64(key))
		key.fill(buf[datagramHead:n], 0)
		under[key] = n
		w.asked.Add(1)
		if _, err := conn.Write(buf[:n]); err != nil {
			return false, err
		}
	}
	for len(under) > 0 {
		if err := conn.SetReadDeadline(time.Now().Add(lostAfter)); err != nil {
			return false, err
		}
		n, err := conn.Read(buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if epoch%2 == 1 || epoch != w.traffic.epoch.Load() {
				w.lost.Add(int64(len(under)))
				return false, nil
			}
			if time.Since(begun) > clientPatience {
				return false, fmt.Errorf("%d datagrams of %d did not come back", len(under), batch)
			}
			continue
		case err != nil:
			return false, err
		case n < datagramHead:
			return false, fmt.Errorf("a datagram of %d bytes", n)
		}
		key := stream(binary.LittleEndian.Uint64(buf[:]))
		if size, mine := under[key]; !mine || size != n {
			return false, fmt.Errorf("datagram %016x of %d bytes: sent were %v", uint64(key), n, under)
		}
		if err := key.check(buf[datagramHead:n], 0); err != nil {
			return false, err
		}
		delete(under, key)
	}
	w.answeredIn(time.Since(begun))
	return true, nil
}

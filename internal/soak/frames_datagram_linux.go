package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

const (
	batchLength = 64
	datagramMax = 2 << 10 // longer than any that a client sends
)

// datagrams sends back what it gets. It stands for
//
//	for (;;) { n = co_await sock.recv_batch(batch); co_await sock.send_batch(batch, n); }
//
// or, single, for the same with one datagram at a time, by the calls for one.
type datagrams struct {
	conn   *stepio.UDPConn
	single bool
	batch  []stepio.Datagram
	out    []stepio.Datagram // of the batch, what is not sent yet
	fail   func(format string, args ...any)
	err    error
	state  echoState
}

func newDatagrams(conn *stepio.UDPConn, single bool, fail func(string, ...any)) *datagrams {
	d := &datagrams{conn: conn, single: single, fail: fail}
	d.batch = stepio.NewBatch(batchLength, datagramMax)
	return d
}

func (d *datagrams) Step(*sm.Task) sm.Await {
	for {
		switch d.state {
		case echoReading:
			n, err := d.read()
			switch {
			case err == stepio.ErrWouldBlock:
				return d.conn.Readable()
			case errors.Is(err, net.ErrClosed):
				d.err = err
				return sm.Done
			case err != nil:
				continue // of a datagram that was sent earlier, whose client has gone
			}
			d.out = d.batch[:n]
			d.state = echoWriting
		case echoWriting:
			err := d.write()
			if err == stepio.ErrWouldBlock {
				return d.conn.Writable()
			}
			if err != nil {
				d.err = err
				return sm.Done
			}
			d.state = echoReading
		default:
			panic(fmt.Sprintf("datagrams.Step: state %d", d.state))
		}
	}
}

func (d *datagrams) read() (n int, err error) {
	if !d.single {
		return d.conn.ReadBatch(d.batch)
	}
	one := &d.batch[0]
	one.Data = one.Data[:cap(one.Data)]
	n, one.Addr, err = d.conn.ReadFrom(one.Data)
	if err != nil {
		return 0, err
	}
	one.Data = one.Data[:n]
	return 1, nil
}

// write sends what is left. Clients do not close their ports while they wait, so
// that a datagram can't be sent is a failure of the server.
func (d *datagrams) write() error {
	for len(d.out) > 0 {
		n := 1
		var err error
		if d.single {
			_, err = d.conn.WriteTo(d.out[0].Data, d.out[0].Addr)
			if err == stepio.ErrWouldBlock {
				return err
			}
			d.out[0].Err, err = err, nil
		} else {
			n, err = d.conn.WriteBatch(d.out)
		}
		for _, sent := range d.out[:n] {
			if sent.Err != nil {
				d.fail("datagram to %v: %v", sent.Addr, sent.Err)
			}
		}
		d.out = d.out[n:]
		if err != nil {
			return err
		}
	}
	return nil
}

// Err is what the socket has failed with.
func (d *datagrams) Err() error { return d.err }

// Idle is true while no datagrams are in hand: see sm.Idler.
func (d *datagrams) Idle() bool { return d.state == echoReading }

func (d *datagrams) Close() error { return d.conn.Close() }

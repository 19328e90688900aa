package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The role that asks and runs: it sends datagrams from sockets that it closes at
// once, so that every answer meets a port where nobody is. After each burst it
// asks politely, and waits.

// strangerConfig is what a stranger is started with.
type strangerConfig struct{ Addr netip.AddrPort }

// strangerCommand has it do so many bursts. A burst fits into the smallest of
// receive buffers, or the kernel would drop what comes after it.
type strangerCommand struct{ Bursts, Size int }

// strange is the answer.
type strange struct {
	Sent, Served, Lost int // datagrams without a port; polite ones
	P50, P99           time.Duration
	Took               time.Duration
}

func strangerRole(in *json.Decoder, out *json.Encoder) error {
	var config strangerConfig
	if err := in.Decode(&config); err != nil {
		return err
	}
	polite, err := bindUDP()
	if err != nil {
		return err
	}
	if err := unix.Connect(polite, sockaddr(config.Addr)); err != nil {
		return os.NewSyscallError("connect", err)
	}
	for {
		var c strangerCommand
		if err := in.Decode(&c); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		var r strange
		var took []time.Duration
		begun := time.Now()
		for range c.Bursts {
			for range c.Size {
				if err := askAndRun(config.Addr); err != nil {
					return err
				}
				r.Sent++
			}
			asked := time.Now()
			served, err := askPolitely(polite)
			if err != nil {
				return err
			}
			if served {
				r.Served++
				took = append(took, time.Since(asked))
			} else {
				r.Lost++
			}
		}
		r.Took = time.Since(begun)
		slices.Sort(took)
		if n := len(took); n > 0 {
			r.P50, r.P99 = took[n/2], took[n*99/100]
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

func askAndRun(to netip.AddrPort) error {
	fd, err := bindUDP()
	if err != nil {
		return err
	}
	if err := unix.Sendto(fd, make([]byte, datagramSize), 0, sockaddr(to)); err != nil {
		return closeAfter(fd, os.NewSyscallError("sendto", err))
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// askPolitely sends a datagram and waits for it to come back.
func askPolitely(fd int) (served bool, err error) {
	if _, err := unix.Write(fd, make([]byte, datagramSize)); err != nil {
		return false, os.NewSyscallError("write", err)
	}
	n, err := awaitFDs([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, lossAfter)
	if n == 0 || err != nil {
		return false, err
	}
	n, err = unix.Read(fd, make([]byte, 2*datagramSize))
	if err == nil && n != datagramSize {
		err = fmt.Errorf("an answer of %d bytes", n)
	}
	return err == nil, err
}

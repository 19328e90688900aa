package contend

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/tidwall/evio"
)

// evioPeer is evio. It has no Fanout: what evio can send to a connection outside
// of that connection's own event is only what Wake makes its Data event return,
// and that replaces output which the socket has not taken yet, so a slow
// subscriber would lose bytes.
func evioPeer() Contender {
	return Contender{
		Name:   "evio",
		About:  "evio v1.0.8, one loop with ReuseInputBuffer; no fan-out, because its Wake drops the output that a slow connection still waits for.",
		Starts: map[Service]Start{Echo: evioEcho},
	}
}

func evioEcho() (string, error) {
	return launch("evio", func(ready func(string)) error {
		var failed error
		err := evio.Serve(evio.Events{
			NumLoops: 1,
			Serving: func(s evio.Server) evio.Action {
				if failed = noDelay(s.Addrs[0]); failed != nil {
					return evio.Shutdown
				}
				ready(s.Addrs[0].String()) // it listens: connections queue up
				return evio.None
			},
			Opened: func(evio.Conn) ([]byte, evio.Options, evio.Action) {
				return nil, evio.Options{ReuseInputBuffer: true}, evio.None
			},
			// evio copies what Data returns, and reads on only when it is sent.
			Data: func(_ evio.Conn, in []byte) ([]byte, evio.Action) { return in, evio.None },
		}, "tcp://127.0.0.1:0")
		return errors.Join(failed, err)
	})
}

// noDelay turns Nagle's algorithm off on the listening socket at addr, from
// which accepted connections inherit it: evio leaves it on and shows no
// descriptor.
func noDelay(addr net.Addr) error {
	want, ok := addr.(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("bench: evio listens on %T", addr)
	}
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		sa, err := syscall.Getsockname(fd)
		if err != nil {
			continue // not a socket, or not of a known family
		}
		if v4, ok := sa.(*syscall.SockaddrInet4); !ok || v4.Port != want.Port {
			continue
		}
		if on, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN); err != nil || on == 0 {
			continue
		}
		return os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1))
	}
	return fmt.Errorf("bench: no descriptor listens on %v", addr)
}

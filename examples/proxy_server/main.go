// Command proxy_server passes TCP connections on to another server.
//
// It shows frames that call frames (a session that connects first), frames that
// run side by side (its two directions), and work that blocks (the resolving of
// a name), which a pool does.
package main

import (
	"errors"
	"flag"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/examples/internal/cli"
	"github.com/stepio-go/stepio/sm"
)

func main() {
	flags := cli.Define(":8888", "a TCP proxy")
	addr := flags.HostPort("backend", "", "`address` to pass connections on to; its name is resolved anew every 5 seconds")
	patience := flag.Duration("dial", 10*time.Second, "`time` to resolve the backend's name and connect, for each client")
	flags.Check(func() error {
		if *patience <= 0 {
			return errors.New("-dial must be positive")
		}
		return nil
	})
	flags.Main(func(s *cli.Server) (netip.AddrPort, error) {
		to := &backend{
			addr:     *addr,
			patience: *patience,
			quiet:    time.Second,
			pool:     s.Resolver(),
			ctx:      s.Context,
			logf:     log.New(os.Stderr, filepath.Base(os.Args[0])+": ", log.LstdFlags).Printf,
		}
		return s.ListenTCP(func(l *stepio.Loop, ln *stepio.TCPListener) {
			l.Spawn(stepio.NewServe(ln, func(client *stepio.TCPConn) sm.Frame {
				return newSession(client, to)
			}))
		})
	})
}

package contend

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/stepio-go/stepio"
)

// stepioContenders are the library's own servers. Their frames are those of its
// examples, on one loop.
func stepioContenders() []Contender {
	return []Contender{
		{
			Name:  "stepio",
			About: "This library, level-triggered: a task a connection; HTTP is examples/http_server; GOMAXPROCS is the number of CPUs.",
			Starts: map[Service]Start{
				Echo:    onLoop(serveEcho),
				EchoUDP: onLoop(serveDatagrams),
				Fanout:  onLoop(serveFanout),
			},
			Program: httpProgram,
			Mute:    true,
		},
		{
			Name:   "stepio edge",
			About:  "This library, edge-triggered: draining reads and accepts.",
			Starts: map[Service]Start{Echo: onLoop(serveEdgeEcho)},
		},
		{
			Name:   "stepio spare",
			About:  "This library, level-triggered, with one more in GOMAXPROCS than it has CPUs, as NewGroup recommends.",
			Starts: map[Service]Start{Echo: withSpare(onLoop(serveEcho))},
		},
		{
			Name:   "stepio pool",
			About:  "This library with a pool of one worker: every message goes to the worker and back to the loop.",
			Starts: map[Service]Start{Echo: onLoop(servePooledEcho)},
		},
		{
			Name:   "stepio batch",
			About:  "This library with datagrams in batches: recvmmsg and sendmmsg, 64 a call.",
			Starts: map[Service]Start{EchoUDP: onLoop(serveBatches)},
		},
	}
}

// anyPort is where the library's servers listen.
var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// onLoop is a Start that has serve set a loop up and then runs it. A loop that
// fails ends the process: the client must not wait for it.
func onLoop(serve func(*stepio.Loop) (netip.AddrPort, error)) Start {
	return func() (string, error) {
		loop, err := stepio.NewLoop()
		if err != nil {
			return "", err
		}
		addr, err := serve(loop)
		if err != nil {
			return "", errors.Join(err, loop.Close())
		}
		go func() {
			if err := loop.Run(); err != nil {
				fmt.Fprintln(os.Stderr, "bench: the loop has failed:", err)
				os.Exit(1)
			}
		}()
		return addr.String(), nil
	}
}

// withSpare is start with one processor of the Go scheduler to spare. The CPUs stay
// the same.
func withSpare(start Start) Start {
	return func() (string, error) {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
		return start()
	}
}

// httpProgram is examples/http_server with one loop.
func httpProgram(s Service) ([]string, error) {
	if s != HTTP {
		return nil, nil
	}
	path, err := builtOnce("http_server", func(path string) error {
		return goProgram("github.com/stepio-go/stepio/examples/http_server", path)
	})
	if err != nil {
		return nil, err
	}
	return []string{path, "-addr", anyPort.String(), "-loops", "1"}, nil
}

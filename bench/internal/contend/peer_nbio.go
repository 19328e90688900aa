package contend

import (
	"errors"
	"fmt"
	"sync"

	"github.com/lesismal/nbio"
	"github.com/lesismal/nbio/logging"
)

// nbioPeer is nbio.
func nbioPeer() Contender {
	return Contender{
		Name:  "nbio",
		About: "nbio v1.6.6, one poller that reads level-triggered into its shared 64 KiB buffer (its defaults, as its own benchmark has them) and Write inside OnData.",
		Starts: map[Service]Start{
			Echo:   func() (string, error) { return nbioStart(nbioEcho) },
			Fanout: func() (string, error) { return nbioStart(nbioFanout()) },
		},
	}
}

// nbioQuiet takes nbio's log, which is one for the process, off standard output.
var nbioQuiet = sync.OnceFunc(func() {
	logging.Output = libraryLog
	logging.SetLevel(logging.LevelWarn)
})

// nbioStart runs an engine on a free port. Accepted connections come from
// package net, which has turned Nagle's algorithm off.
func nbioStart(onData func(*nbio.Conn, []byte)) (string, error) {
	nbioQuiet()
	engine := nbio.NewEngine(nbio.Config{
		Network:  "tcp4",
		Addrs:    []string{"127.0.0.1:0"},
		Listen:   listenOn,
		NPoller:  1,
		EpollMod: nbio.EPOLLLT,
	})
	engine.OnData(onData)
	if err := engine.Start(); err != nil {
		return "", fmt.Errorf("bench: server nbio: %w", err)
	}
	return engine.Addrs[0], nil // Start puts the port there
}

// nbioEcho is Echo. Write keeps a copy of what the socket does not take; when it
// fails it has closed the connection, and nothing is left to do.
func nbioEcho(c *nbio.Conn, in []byte) { _, _ = c.Write(in) }

// nbioFanout is Fanout. One poller calls OnData for all connections, so nothing
// here needs a lock, and Write may be called for any of them.
func nbioFanout() func(*nbio.Conn, []byte) {
	var subs subscribers[*nbio.Conn]
	return func(c *nbio.Conn, in []byte) {
		m, ok := c.Session().(*member)
		if !ok {
			m = new(member)
			c.SetSession(m)
		}
		answer, messages, err := m.input(in)
		if err != nil {
			fmt.Fprintln(libraryLog, errors.Join(err, c.Close()))
			return
		}
		if len(answer) > 0 {
			if _, err := c.Write(answer); err != nil {
				return
			}
			if m.role == 'S' {
				subs.add(c)
			}
		}
		if len(messages) > 0 {
			subs.publish(func(to *nbio.Conn) error {
				_, err := to.Write(messages) // net.ErrClosed once it is
				return err
			})
		}
	}
}

package contend

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cloudwego/netpoll"
)

// netpollPeer is CloudWeGo's netpoll.
func netpollPeer() Contender {
	return Contender{
		Name:  "netpoll",
		About: "cloudwego/netpoll v0.7.2, one poller and its default goroutine pool for handlers (Flush may block, so a handler cannot run on the poller), with its zero-copy Next, WriteBinary and Flush.",
		Starts: map[Service]Start{
			Echo:   func() (string, error) { return netpollStart(netpollEcho) },
			Fanout: netpollFanout,
		},
	}
}

// netpollSetUp does what is done once for the process.
var netpollSetUp = sync.OnceValue(func() error {
	return netpoll.Configure(netpoll.Config{PollerNum: 1, LoggerOutput: libraryLog})
})

// netpollStart runs an event loop on a free port. netpoll turns Nagle's
// algorithm off for each connection.
func netpollStart(onRequest netpoll.OnRequest, options ...netpoll.Option) (string, error) {
	return launch("netpoll", func(ready func(string)) error {
		if err := netpollSetUp(); err != nil {
			return err
		}
		ln, err := netpoll.CreateListener("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		loop, err := netpoll.NewEventLoop(onRequest, options...)
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		ready(ln.Addr().String())
		return loop.Serve(ln)
	})
}

// netpollEcho is Echo. Flush returns when the socket has taken everything; after
// an error netpoll closes the connection.
func netpollEcho(_ context.Context, c netpoll.Connection) error {
	r, w := c.Reader(), c.Writer()
	in, err := r.Next(r.Len())
	if err != nil {
		return err
	}
	if _, err := w.WriteBinary(in); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.Release() // after Flush: WriteBinary refers to large input
}

// netpollFan is Fanout. Handlers run on goroutines of their own, so the list has
// a lock, held as in netFan. Nothing that netpoll calls when a connection ends
// may take that lock: the notices of several connections share one goroutine, and
// one of them may be what the publisher's Write waits for.
type netpollFan struct {
	mu   sync.Mutex
	subs subscribers[netpoll.Connection]
}

// netpollKey finds the *member in a connection's context.
type netpollKey struct{}

func netpollFanout() (string, error) {
	return netpollStart(new(netpollFan).request, netpoll.WithOnPrepare(func(netpoll.Connection) context.Context {
		return context.WithValue(context.Background(), netpollKey{}, new(member))
	}))
}

// request handles what a connection has sent. It writes with Write, not with
// WriteBinary and Flush: only Write is safe while another goroutine closes the
// connection.
func (f *netpollFan) request(ctx context.Context, c netpoll.Connection) error {
	r := c.Reader()
	in, err := r.Next(r.Len())
	if err != nil {
		return err
	}
	m := ctx.Value(netpollKey{}).(*member)
	answer, messages, err := m.input(in)
	if err != nil {
		fmt.Fprintln(libraryLog, err)
		return errors.Join(err, c.Close())
	}
	if err := f.handle(c, m, answer, messages); err != nil {
		return err
	}
	return r.Release()
}

func (f *netpollFan) handle(c netpoll.Connection, m *member, answer, messages []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(answer) > 0 {
		if _, err := c.Write(answer); err != nil {
			return err
		}
		if m.role == 'S' {
			f.subs.add(c)
		}
	}
	if len(messages) > 0 {
		f.subs.publish(func(to netpoll.Connection) error {
			_, err := to.Write(messages)
			return err
		})
	}
	return nil
}

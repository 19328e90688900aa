package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/loopback"
	"github.com/stepio-go/stepio/sm"
)

// addresses are where the servers listen: the same for every generation.
type addresses struct {
	Echo, EchoEdge, Proxy, RPC, News, UDP, UDPBatch netip.AddrPort
}

// A service is what the soak is about: servers of every kind on a group of
// loops, which is replaced now and then by another on the same addresses, as by
// a rolling restart.
type service struct {
	loops int
	rnd   *rand.Rand
	pool  *stepio.Pool
	addrs addresses
	now   *generation

	failures failures
}

// generation is a group of loops with every server on each of them.
type generation struct {
	group   *stepio.Group
	news    *news
	errands errands
}

const (
	poolWorkers = 2
	poolQueue   = 256
)

// newService starts the first generation, without errands yet.
func newService(loops int, seed uint64) (*service, error) {
	s := &service{
		loops: loops,
		rnd:   rand.New(rand.NewPCG(seed, 0xe44a)),
		pool:  stepio.NewPool(poolWorkers, poolQueue),
	}
	any := netip.AddrPortFrom(loopback.Own(), 0)
	s.addrs = addresses{any, any, any, any, any, any, any}
	var err error
	s.now, err = s.start()
	return s, err
}

// start starts a generation, without errands yet. After the first, the addresses
// stay.
func (s *service) start() (*generation, error) {
	report := stepio.WithReport(func(t *sm.Task, err error) {
		chain := "a posted function"
		if t != nil {
			chain = t.Chain()
		}
		s.failures.add("report of %s: %v", chain, err)
	})
	group, err := stepio.NewGroup(s.loops, report)
	if err != nil {
		return nil, err
	}
	g := &generation{
		group: group, news: newNews(), errands: errands{quit: make(chan struct{})},
	}
	err = group.Each(func(_ int, l *stepio.Loop) error {
		return s.listen(l, g.news)
	})
	if err != nil {
		group.Stop()
		g.news.stop()
		return nil, errors.Join(err, group.Join())
	}
	return g, nil
}

// begin starts the errands of a generation.
func (s *service) begin(g *generation) {
	g.startErrands(s, rand.New(rand.NewPCG(s.rnd.Uint64(), 0)))
}

// listen opens every server's socket on a loop. Loop only.
func (s *service) listen(l *stepio.Loop, n *news) error {
	a := &s.addrs
	return errors.Join(
		listenTCP(l, &a.Echo, func(c *stepio.TCPConn) sm.Frame { return newEcho(c, false) }, false),
		listenTCP(l, &a.EchoEdge, func(c *stepio.TCPConn) sm.Frame { return newEcho(c, true) }, true),
		listenTCP(l, &a.Proxy, func(c *stepio.TCPConn) sm.Frame { return newPassing(c, a.Echo) }, false),
		listenTCP(l, &a.RPC, func(c *stepio.TCPConn) sm.Frame { return &rpc{conn: c, service: s} }, false),
		listenTCP(l, &a.News, func(c *stepio.TCPConn) sm.Frame { return &subscriber{conn: c, news: n} }, true),
		s.listenUDP(l, &a.UDP, true),
		s.listenUDP(l, &a.UDPBatch, false),
	)
}

func listenTCP(l *stepio.Loop, addr *netip.AddrPort, handle func(*stepio.TCPConn) sm.Frame, edge bool) error {
	ln, err := stepio.ListenTCP(l, *addr, stepio.ListenOptions{ReusePort: true})
	if err != nil {
		return err
	}
	keep(addr, ln.Addr())
	if edge {
		l.Spawn(&edgeAcceptor{ln: ln, handle: handle})
	} else {
		l.Spawn(stepio.NewServe(ln, handle))
	}
	return nil
}

// keep writes down the port that the kernel has chosen. The first loop of the first
// generation does so; servers read it ever after.
func keep(addr *netip.AddrPort, chosen netip.AddrPort) {
	if addr.Port() == 0 {
		*addr = chosen
	}
}

func (s *service) listenUDP(l *stepio.Loop, addr *netip.AddrPort, single bool) error {
	conn, err := stepio.ListenUDP(l, *addr, stepio.ListenUDPOptions{ReusePort: true, ReadBuffer: 1 << 20})
	if err != nil {
		return err
	}
	keep(addr, conn.LocalAddr())
	l.Spawn(newDatagrams(conn, single, s.failures.add))
	return nil
}

// shutDown ends a generation in order. It reports whether some of its tasks had
// to be destroyed at the end of the grace period: those that serve peers which
// are slow on purpose.
func (g *generation) shutDown(grace time.Duration) (cut bool, err error) {
	g.endErrands()
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err = g.group.Shutdown(ctx)
	if cut = errors.Is(err, context.DeadlineExceeded); cut {
		err = nil
	}
	g.news.stop()
	return cut, errors.Join(err, g.group.Join())
}

// stop ends the service. A task that is alive yet is none of the servers'.
func (s *service) stop(grace time.Duration) error {
	cut, err := s.now.shutDown(grace)
	if cut {
		s.failures.add("at the end, without clients, tasks had to be destroyed")
	}
	s.pool.Stop()
	s.pool.Join()
	return err
}

// tasks is the number of live tasks of the generation.
func (g *generation) tasks() (n int, err error) {
	err = g.each(func(l *stepio.Loop) error {
		n += l.Tasks()
		return nil
	})
	return n, err
}

// each calls fn on every loop, one after the other.
func (g *generation) each(fn func(*stepio.Loop) error) error {
	return g.group.Each(func(_ int, l *stepio.Loop) error { return fn(l) })
}

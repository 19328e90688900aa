//go:build linux || darwin

package stepio_test

import (
	"bufio"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// topic is what subscribers listen to. Publish may be called from any
// goroutine, and its subscribers may be on any loop.
type topic struct {
	mu          sync.Mutex
	subscribers map[*subscriber]bool
}

// Publish sends msg, which must not change any more, to every subscriber.
func (p *topic) Publish(msg []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.subscribers {
		if len(s.queue) == mostUnsent {
			s.slow = true // it is cut: one that does not read costs the others nothing
		} else {
			s.queue = append(s.queue, msg)
		}
		s.waker.Wake()
	}
}

const mostUnsent = 100 // messages

// subscriber serves one connection: one task, that waits for input and for
// what is published at the same time.
type subscriber struct {
	topic *topic
	conn  *stepio.TCPConn
	out   stepio.WriteAll

	// Of the topic, under its lock.
	waker sm.Waker
	queue [][]byte
	slow  bool
}

func (s *subscriber) Step(t *sm.Task) sm.Await {
	s.join(t)
	for {
		if a := s.out.Step(t); a.Pending() {
			return a
		}
		if s.out.Err() != nil {
			return sm.Done
		}
		msg, slow := s.take()
		if slow {
			return sm.Done
		}
		if msg != nil {
			s.out.StartShared(s.conn, msg) // all subscribers share its memory
			continue
		}
		switch _, err := s.conn.Read(t.Scratch()); err {
		case nil: // what clients say is not listened to
		case stepio.ErrWouldBlock:
			return s.conn.Readable() // or until woken
		default:
			return sm.Done
		}
	}
}

// join subscribes, in the first step: before, there is no task to wake.
func (s *subscriber) join(t *sm.Task) {
	if s.waker == t.Waker() {
		return
	}
	s.topic.mu.Lock()
	s.waker = t.Waker()
	s.topic.subscribers[s] = true
	s.topic.mu.Unlock()
	s.out.Start(s.conn, []byte("welcome\n")) // what is published from here on is seen
}

func (s *subscriber) take() (msg []byte, slow bool) {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	if len(s.queue) > 0 {
		msg, s.queue = s.queue[0], s.queue[1:]
	}
	return msg, s.slow
}

func (s *subscriber) Close() error {
	s.topic.mu.Lock()
	delete(s.topic.subscribers, s)
	s.topic.mu.Unlock()
	return errors.Join(s.out.Close(), s.conn.Close())
}

// A publisher and its subscribers: each is woken to write while it waits to
// read.
func Example_publishAndSubscribe() {
	loop, err := stepio.NewLoop()
	if err != nil {
		log.Fatal(err)
	}
	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	news := &topic{subscribers: make(map[*subscriber]bool)}
	loop.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame {
		return &subscriber{topic: news, conn: c}
	}))
	stopped := make(chan error, 1)
	go func() { stopped <- loop.Run() }()

	var clients []*bufio.Scanner
	for range 3 {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close()
		_ = client.SetDeadline(time.Now().Add(patience)) // it is open
		lines := bufio.NewScanner(client)
		lines.Scan() // welcome: it has subscribed
		clients = append(clients, lines)
	}
	news.Publish([]byte("extra\n"))
	for i, lines := range clients {
		lines.Scan()
		fmt.Println(i, lines.Text())
	}

	loop.Stop()
	fmt.Println(<-stopped, loop.Close())
	// Output:
	// 0 extra
	// 1 extra
	// 2 extra
	// <nil> <nil>
}

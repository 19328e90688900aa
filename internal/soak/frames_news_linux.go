package main

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

const (
	newsHead  = 16                    // number of the message, and when it was published
	newsSize  = 256                   // with the head
	newsEvery = 20 * time.Millisecond // from one message to the next
	newsMost  = 5000                  // messages that a subscriber may be behind; then it is cut
)

// news is published to every subscriber, from a goroutine that is no loop's:
// each message wakes tasks that wait for input. What a message holds follows
// from its number.
type news struct {
	mu          sync.Mutex
	subscribers map[*subscriber]bool
	number      uint64
	quit, done  chan struct{}
}

func newNews() *news {
	n := &news{subscribers: make(map[*subscriber]bool), quit: make(chan struct{}), done: make(chan struct{})}
	go n.run()
	return n
}

func (n *news) run() {
	defer close(n.done)
	tick := time.NewTicker(newsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.publish()
		case <-n.quit:
			return
		}
	}
}

// stop ends the publishing, and waits for its end.
func (n *news) stop() {
	close(n.quit)
	<-n.done
}

func (n *news) publish() {
	n.mu.Lock()
	defer n.mu.Unlock()
	msg := make([]byte, newsSize)
	binary.LittleEndian.PutUint64(msg, n.number)
	binary.LittleEndian.PutUint64(msg[8:], uint64(clock()))
	stream(n.number).fill(msg[newsHead:], 0)
	n.number++
	for s := range n.subscribers {
		if len(s.queue) < newsMost {
			s.queue = append(s.queue, msg)
		} else {
			s.slow = true
		}
		s.waker.Wake()
	}
}

// subscriber stands for
//
//	join(news);
//	for (;;) { co_await either(published(news), sock.read(buf)); co_await sock.write(message); }
type subscriber struct {
	news  *news
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	began bool

	// Of the news, under its lock.
	waker sm.Waker
	queue [][]byte
	slow  bool
}

func (s *subscriber) Step(t *sm.Task) sm.Await {
	if !s.began {
		s.began = true
		s.news.mu.Lock()
		s.waker = t.Waker()
		s.news.subscribers[s] = true
		s.news.mu.Unlock()
	}
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
			s.out.StartShared(s.conn, msg)
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

func (s *subscriber) take() (msg []byte, slow bool) {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	if len(s.queue) > 0 {
		msg, s.queue = s.queue[0], s.queue[1:]
	}
	return msg, s.slow
}

// Idle is true while it has got everything: see sm.Idler.
func (s *subscriber) Idle() bool { return s.out.Pending() == 0 }

func (s *subscriber) Close() error {
	s.news.mu.Lock()
	delete(s.news.subscribers, s)
	s.news.mu.Unlock()
	return errors.Join(s.out.Close(), s.conn.Close())
}

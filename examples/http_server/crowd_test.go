package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/internal/stdin"
	"github.com/stepio-go/stepio/sm"
)

// A crowd is many slow clients in a process of its own, the test's executable
// again: "go N\n" on its standard input has N of them connect, "tell\n" answers a
// line about them, "end\n" resets them all. Two of five send a request's head, two
// its body, one reads an answer, each a byte a second, and the seconds are spread
// evenly. Who is cut off by the server comes again.

// asCrowd makes the test's own executable a crowd for the server at the address
// that it is set to.
const asCrowd = "HTTP_SERVER_TEST_CROWD"

// crowd is what the slow clients of a process share.
type crowd struct {
	loop *stepio.Loop
	addr netip.AddrPort
	all  []*sm.Task
	told crowdState
}

// crowdState is what a crowd tells about itself.
type crowdState struct {
	Connected int // now
	Bytes     int // sent, or read where reading is slow
	Cut       int // connections that the server has ended
	Failed    int // others, and attempts to connect
}

// Openings of the slow clients, after which they are slow.
var openings = [...]string{
	"GET /hello HTTP/1.1\r\nHost: a\r\nX: ",
	"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n",
	"GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n",
}

const slowReader = 2 // of openings

// crowdComes is how long a crowd takes to connect, one client after the other: whole
// seconds, so that the bytes of each second are spread evenly, too.
const crowdComes = 2 * time.Second

// slow is a slow client. It stands for
//
//	for (;;) {
//	    sock = co_await dial(addr);
//	    co_await sock.write(opening);
//	    while (co_await sleep_until(next += 1s), send ? sock.write("x") : sock.read(1)) {}
//	}
type slow struct {
	crowd *crowd
	dial  stepio.Dial
	conn  *stepio.TCPConn
	out   stepio.WriteAll
	next  time.Time
	kind  int
	state slowState
}

type slowState uint8

const (
	slowStarting   slowState = iota // waits for its turn to connect
	slowConnecting                  // has begun to
	slowOpening                     // sends the first part at once
	slowOn                          // a byte a second
)

func (s slowState) String() string {
	return [...]string{"slowStarting", "slowConnecting", "slowOpening", "slowOn"}[s]
}

// Step goes on by one byte.
func (s *slow) Step(t *sm.Task) sm.Await {
	for {
		switch s.state {
		case slowStarting:
			if a := t.SleepUntil(s.next); a.Pending() {
				return a
			}
			s.dial = stepio.DialTCP(s.crowd.loop, s.crowd.addr, stepio.DialOptions{})
			s.state = slowConnecting
		case slowConnecting:
			if a := s.dial.Step(t); a.Pending() {
				return a
			}
			conn, err := s.dial.Result()
			if err != nil {
				s.again(t, &s.crowd.told.Failed)
				continue
			}
			s.conn = conn
			s.crowd.told.Connected++
			s.out.Start(conn, []byte(openings[s.kind]))
			s.state = slowOpening
		case slowOpening:
			if a := s.out.Step(t); a.Pending() {
				return a
			}
			s.next = s.next.Add(time.Second)
			s.state = slowOn
		case slowOn:
			if s.kind != slowReader { // whether the server has lost patience
				switch n, err := s.conn.Read(t.Scratch()); {
				case n > 0 || err != stepio.ErrWouldBlock:
					s.again(t, &s.crowd.told.Cut)
					continue
				case t.Now().Before(s.next):
					return s.conn.Readable().By(s.next)
				}
			}
			if a := t.SleepUntil(s.next); a.Pending() {
				return a
			}
			var err error
			if s.kind == slowReader {
				_, err = s.conn.Read(t.Scratch()[:1])
			} else {
				_, err = s.conn.Write([]byte{'x'})
			}
			switch err {
			case nil:
				s.crowd.told.Bytes++
			case stepio.ErrWouldBlock:
			default:
				s.again(t, &s.crowd.told.Cut)
				continue
			}
			s.next = s.next.Add(time.Second)
		default:
			panic(fmt.Sprintf("slow.Step: state %d", s.state))
		}
	}
}

// again starts from the beginning in a second, and counts why.
func (s *slow) again(t *sm.Task, why *int) {
	_ = t.WaitErr() // of a wait on the connection that is closed
	*why++
	s.drop()
	s.next = t.Now().Add(time.Second)
	s.state = slowStarting
}

// drop resets the connection.
func (s *slow) drop() {
	if s.conn != nil {
		_ = s.out.Close()
		_ = s.conn.SetLinger(0) // it may have been reset
		_ = s.conn.Close()
		s.conn = nil
		s.crowd.told.Connected--
	}
}

// Close resets the connection, or ends the attempt.
func (s *slow) Close() error {
	s.drop()
	return s.dial.Close()
}

// crowdMain is main for a crowd.
func crowdMain() error {
	runtime.GOMAXPROCS(1)
	addr, err := netip.ParseAddrPort(os.Getenv(asCrowd))
	if err != nil {
		return err
	}
	loop, err := stepio.NewLoop()
	if err != nil {
		return err
	}
	c := &crowd{loop: loop, addr: addr}
	ended := make(chan error, 1)
	go func() { ended <- loop.Run() }()
	orders, err := stdin.Pipe()
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(orders); in.Scan(); {
		done := make(chan error, 1)
		if err := loop.Post(func() { done <- c.do(in.Text()) }); err != nil {
			return err
		}
		if err := <-done; err != nil {
			return err
		}
	}
	loop.Stop()
	if err := <-ended; err != nil {
		return err
	}
	return loop.Close()
}

// do follows a command.
func (c *crowd) do(command string) error {
	switch number, found := strings.CutPrefix(command, "go "); {
	case found:
		n, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		begin := time.Now()
		for i := range n {
			turn := time.Duration(i) * crowdComes / time.Duration(n)
			kind := i % 5 / 2 // 0, 0, 1, 1, 2
			c.all = append(c.all, c.loop.Spawn(&slow{crowd: c, kind: kind, next: begin.Add(turn)}))
		}
	case command == "tell":
		return json.NewEncoder(os.Stdout).Encode(c.told)
	case command == "end":
		for _, task := range c.all {
			task.Destroy()
		}
		c.all = nil
	default:
		return fmt.Errorf("unknown command %q", command)
	}
	return nil
}

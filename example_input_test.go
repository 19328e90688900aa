//go:build linux || darwin

package stepio_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// shout answers each line with the same in capitals. It stands for
//
//	for (;;) {
//		while (!in.has_line()) if (!co_await in.more(sock, 10s)) co_return;
//		co_await sock.write(upper(in.take_line()));
//	}
//
// It needs no state: every resume finds in its fields where it is.
type shout struct {
	conn *stepio.TCPConn
	in   stepio.Input // owns memory only while a line is incomplete
	out  stepio.WriteAll
}

const (
	longestLine = 4096             // bytes
	patience    = 10 * time.Second // with a client that sends half a line, or none
)

func (s *shout) Step(t *sm.Task) sm.Await {
	for {
		if a := s.out.Step(t); a.Pending() {
			return a // the last answer is not sent yet
		}
		if s.out.Err() != nil {
			return sm.Done
		}
		// Parse first: requests may be pipelined.
		if line, _, whole := bytes.Cut(s.in.Bytes(), []byte("\n")); whole {
			s.out.Start(s.conn, append(bytes.ToUpper(line), '\n'))
			s.in.Discard(len(line) + 1)
			if s.conn.SetReadDeadline(t.Now().Add(patience)) != nil {
				return sm.Done
			}
			continue
		}
		if len(s.in.Bytes()) > longestLine {
			return sm.Done
		}
		switch err := s.in.More(t, s.conn); err {
		case nil:
		case stepio.ErrWouldBlock:
			return s.conn.Readable()
		default: // io.EOF, the deadline, a reset
			return sm.Done
		}
	}
}

func (s *shout) Close() error {
	return errors.Join(s.in.Close(), s.out.Close(), s.conn.Close())
}

// A server that keeps connections alive, and answers pipelined requests.
func ExampleInput() {
	loop, err := stepio.NewLoop()
	if err != nil {
		log.Fatal(err)
	}
	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
	if err != nil {
		log.Fatal(err)
	}
	loop.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame {
		_ = c.SetReadDeadline(loop.Now().Add(patience)) // c is open
		return &shout{conn: c}
	}))
	stopped := make(chan error, 1)
	go func() { stopped <- loop.Run() }()

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	_ = client.SetDeadline(time.Now().Add(patience)) // it is open
	answers := bufio.NewScanner(client)
	for _, request := range []string{"one\ntwo\nth", "ree\n"} {
		fmt.Fprint(client, request)
	}
	for range 3 {
		answers.Scan()
		fmt.Println(answers.Text())
	}

	client.Close()
	loop.Stop()
	fmt.Println(<-stopped, loop.Close())
	// Output:
	// ONE
	// TWO
	// THREE
	// <nil> <nil>
}

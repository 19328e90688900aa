package hostile

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The role that resets: a connection after the other, brought into one of the
// states that a server's connection can be in, and reset there.

// resetterConfig is what a resetter is started with.
type resetterConfig struct {
	Server serverHello
	Seed   uint64
}

// resetterCommand has it reset so many connections.
type resetterCommand struct{ N int }

// resets is the answer.
type resets struct {
	Error string
	Of    map[string]int // by state
	Took  time.Duration
	CPU   float64 // of a processor, 0 to 1
}

// resetState is where a connection is reset.
type resetState struct {
	name string
	lazy bool // of the listener that leaves its queue alone for a while
	want byte // what is asked for; 0: nothing is sent
	act  func(fd int) error
}

var resetStates = []resetState{
	{name: "before accept", lazy: true},
	{name: "after accept"},
	{name: "parked, after an echo", want: wantEcho, act: func(fd int) error {
		if _, err := unix.Write(fd, make([]byte, pingSize)); err != nil {
			return err
		}
		return readFull(fd, make([]byte, pingSize))
	}},
	{name: "in the midst of a read", want: wantFilled, act: func(fd int) error {
		if err := readFull(fd, make([]byte, 1)); err != nil {
			return err
		}
		_, err := unix.Write(fd, make([]byte, messageSize/2))
		return err
	}},
	{name: "in the midst of a write", want: wantMore, act: func(fd int) error { return readFull(fd, make([]byte, 1000)) }},
	{name: "while its task sleeps", want: wantSleep, act: func(fd int) error { return readFull(fd, make([]byte, 1)) }},
	{name: "while a pool has its job", want: wantWork, act: func(fd int) error { return readFull(fd, make([]byte, 1)) }},
	{name: "blocked in a write, with input waiting", want: wantEcho, act: stuff},
}

// stuffedRarely: a connection that is stuffed takes some time.
const stuffedRarely = 32

// stuff sends until nothing moves any more in either direction.
func stuff(fd int) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	chunk := make([]byte, 64<<10)
	for {
		_, err := unix.Write(fd, chunk)
		if err == unix.EAGAIN {
			n, err := awaitFDs([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 2*time.Millisecond)
			if n == 0 || err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
}

func readFull(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Read(fd, p)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		p = p[n:]
	}
	return nil
}

func resetterRole(in *json.Decoder, out *json.Encoder) error {
	var config resetterConfig
	if err := in.Decode(&config); err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(config.Seed, config.Seed))
	for {
		var c resetterCommand
		if err := in.Decode(&c); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		r := resets{Of: map[string]int{}}
		begun, cpu := time.Now(), cpuTime()
		for range c.N {
			s := resetStates[rnd.IntN(len(resetStates)-1)]
			if rnd.IntN(stuffedRarely) == 0 {
				s = resetStates[len(resetStates)-1]
			}
			if err := s.one(config.Server, rnd); err != nil {
				r.Error = fmt.Sprintf("%s: %v", s.name, err)
				break
			}
			r.Of[s.name]++
		}
		r.Took = time.Since(begun)
		r.CPU = float64(cpuTime()-cpu) / float64(r.Took)
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// one opens a connection, brings it into the state, and resets it.
func (s resetState) one(server serverHello, rnd *rand.Rand) error {
	to := []netip.AddrPort{server.Level, server.Edge}[rnd.IntN(2)]
	if s.lazy {
		to = server.Lazy
	}
	receiveBuffer := 0
	if s.want == wantMore || s.name == resetStates[len(resetStates)-1].name {
		receiveBuffer = 4 << 10 // so that little of what comes is on its way
	}
	fd, err := dial(to, 0, receiveBuffer)
	if err != nil {
		return err
	}
	if s.want != 0 {
		if _, err := unix.Write(fd, []byte{s.want}); err != nil {
			return closeAfter(fd, os.NewSyscallError("write", err))
		}
		if err := s.act(fd); err != nil {
			return closeAfter(fd, err)
		}
	}
	return reset(fd)
}

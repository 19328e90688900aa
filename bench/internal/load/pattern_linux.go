package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

// A message begins with eight bytes that name it: the number of its connection
// in the upper half, its own number on that connection in the lower half,
// little-endian. The rest is a piece of one random table, from a place that the
// name decides. So a changed byte, a byte of another connection, and a message
// that is lost, repeated or out of order are all found, at the price of one
// copy to write a message and one comparison to check it.

// spread is how many places of the table a message can begin at. It is small so
// that the table of short messages stays in the nearest cache.
const spread = 4096

// chunk is the most that is sent or received in one call.
const chunk = 256 << 10

// A pattern writes and checks messages of one size.
type pattern struct {
	size  int
	table []byte
}

func newPattern(size int) *pattern {
	p := &pattern{size: size, table: make([]byte, spread+size)}
	rng := rand.NewPCG(1, 2) // the same in every run
	for i := range p.table {
		p.table[i] = byte(rng.Uint64())
	}
	return p
}

// head is the name of message seq of connection id.
func head(id, seq uint32) uint64 { return uint64(id)<<32 | uint64(seq) }

// body is all of a message but its name. The multipliers are those of
// splitmix64: neighbouring names lie far apart.
func (p *pattern) body(h uint64) []byte {
	x := (h ^ h>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	at := x >> 52 // 12 bits: below spread
	return p.table[at : int(at)+p.size-8]
}

// fill writes the message h from its byte off on, as far as dst goes, and
// returns how many bytes that are.
func (p *pattern) fill(dst []byte, h uint64, off int) int {
	n := 0
	if off < 8 {
		if off == 0 && len(dst) >= 8 {
			binary.LittleEndian.PutUint64(dst, h)
			n = 8
		} else {
			var name [8]byte
			binary.LittleEndian.PutUint64(name[:], h)
			n = copy(dst, name[off:])
		}
		off += n
	}
	if off < 8 {
		return n
	}
	return n + copy(dst[n:], p.body(h)[off-8:])
}

// check compares what has come with the message h from its byte off on; it
// must not go past the message's end.
func (p *pattern) check(got []byte, h uint64, off int) error {
	whole, start := got, off
	if off == 0 && len(got) >= 8 && binary.LittleEndian.Uint64(got) == h {
		got, off = got[8:], 8
	}
	if off >= 8 && bytes.Equal(got, p.body(h)[off-8:][:len(got)]) {
		return nil
	}
	want := make([]byte, len(whole))
	p.fill(want, h, start)
	for i := range whole {
		if whole[i] != want[i] {
			return &wrongByte{seq: uint32(h), size: p.size, off: start + i, want: want[i], got: whole[i]}
		}
	}
	return nil // the name came in pieces and was right
}

// A wrongByte is a byte that is not what was sent.
type wrongByte struct {
	seq       uint32 // message
	size, off int    // its size, and the place in it
	want, got byte
}

func (w *wrongByte) Error() string {
	return fmt.Sprintf("wrong byte at offset %d (byte %d of message %d): expected 0x%02x, got 0x%02x",
		int64(w.seq)*int64(w.size)+int64(w.off), w.off, w.seq, w.want, w.got)
}

// messages is the protocol of streams that carry the pattern.
type messages struct {
	*pattern
	out  []byte
	from uint32 // when not 0, all messages come from that connection: fan-out
}

func newMessages(size, depth int) *messages {
	return &messages{pattern: newPattern(size), out: make([]byte, min(size*depth, chunk))}
}

func (m *messages) length() int { return m.size }

func (m *messages) next(id uint32, s *stream) []byte {
	n, seq, off := 0, s.sent, int(s.sentOff)
	for seq != s.want && n < len(m.out) {
		k := m.fill(m.out[n:], head(id, seq), off)
		n, seq, off = n+k, seq+1, 0
	}
	return m.out[:n]
}

func (m *messages) take(id uint32, s *stream, data []byte) (done int, err error) {
	if m.from != 0 {
		id = m.from
	}
	for len(data) > 0 {
		if s.got == s.want {
			return done, unexpected(data)
		}
		off := int(s.gotOff)
		piece := data[:min(len(data), m.size-off)]
		if err := m.check(piece, head(id, s.got), off); err != nil {
			return done, err
		}
		data = data[len(piece):]
		if off += len(piece); off == m.size {
			off = 0
			s.got++
			done++
		}
		s.gotOff = uint32(off)
	}
	return done, nil
}

// unexpected is the error of bytes that came when no answer was due.
func unexpected(data []byte) error {
	return fmt.Errorf("%d bytes came that nothing was sent for: %q", len(data), data[:min(len(data), 32)])
}

// greeting is the protocol of a fan-out connection's first byte: it comes back.
type greeting struct{ role [1]byte }

func (g *greeting) length() int                      { return len(g.role) }
func (g *greeting) next(id uint32, s *stream) []byte { return g.role[:] }

func (g *greeting) take(id uint32, s *stream, data []byte) (int, error) {
	if s.got == s.want {
		return 0, unexpected(data)
	}
	if !bytes.Equal(data, g.role[:]) {
		return 0, fmt.Errorf("expected the answer %q to the first byte, got %q", g.role[:], data[:min(len(data), 32)])
	}
	s.got++
	return 1, nil
}

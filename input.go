//go:build linux || darwin

package stepio

import "github.com/stepio-go/stepio/sm"

// Input is the carry buffer of a protocol: the bytes that are not a whole
// message yet. It owns memory only while there are such bytes. The zero Input
// is empty.
//
// Parse first, and read only when no whole message is left: the other order
// parks the task with a pipelined request in hand.
//
//	for {
//		msg, size, err := parse(f.in.Bytes())
//		...
//		if size == 0 { // not whole yet
//			if err := f.in.More(t, f.conn); err == stepio.ErrWouldBlock {
//				return f.conn.Readable()
//			} else if err != nil { // io.EOF with bytes left: the message was cut short
//				...
//			}
//			continue
//		}
//		... // use msg, which is Input's memory
//		f.in.Discard(size)
//	}
type Input struct{ buf *buffer }

// More reads what has arrived on c and adds it to what is held. It overwrites
// t.Scratch().
//
// The result is one of: nil, when there is at least one byte more; what Read
// answers otherwise, with nothing changed. There is no limit but the caller's,
// who looks at len(in.Bytes()) before asking for more: a call adds at most
// sm.ScratchSize bytes. Loop only.
func (in *Input) More(t *sm.Task, c *TCPConn) error {
	n, err := c.Read(t.Scratch())
	if err != nil {
		return err
	}
	in.add(&c.loop.spares, t.Scratch()[:n])
	return nil
}

// Put adds a copy of p to what is held, as if it had been read: bytes that
// another reader had taken from the connection before it was adopted.
func (in *Input) Put(c *TCPConn, p []byte) {
	if len(p) > 0 {
		in.add(&c.loop.spares, p)
	}
}

func (in *Input) add(spares *spareBuffers, p []byte) {
	b := in.buf
	switch {
	case b == nil:
		b = spares.take(len(p))
	case cap(b.data)-len(b.data) >= len(p):
	case cap(b.data)-len(b.left()) >= len(p) && len(b.left()) <= b.begin:
		b.data = append(b.data[:0], b.left()...) // moved at most once a halving
		b.begin = 0
	default:
		held := len(b.left())
		larger := spares.take(max(held+len(p), 2*held))
		larger.data = append(larger.data, b.left()...)
		b.give()
		b = larger
	}
	b.data = append(b.data, p...)
	in.buf = b
}

// Bytes is what is held. It is valid until the next call of a method.
func (in *Input) Bytes() []byte {
	if in.buf == nil {
		return nil
	}
	return in.buf.left()
}

// Discard drops the first n bytes, which were used. It panics when there are
// fewer. What remains keeps its memory; when nothing does, the memory goes back
// to the loop.
func (in *Input) Discard(n int) {
	if n < 0 || n > len(in.Bytes()) {
		panic("stepio: Input.Discard: more than is held")
	}
	if in.buf == nil {
		return
	}
	in.buf.begin += n
	if len(in.buf.left()) == 0 {
		in.drop()
	}
}

// Close drops everything.
func (in *Input) Close() error {
	if in.buf != nil {
		in.drop()
	}
	return nil
}

func (in *Input) drop() {
	in.buf.give()
	in.buf = nil
}

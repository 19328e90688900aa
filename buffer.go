package stepio

// buffer is memory that a connection holds while it must, and gives back to
// its loop as soon as it can: a write's remainder, an incomplete message. What
// is not consumed yet is data[begin:].
type buffer struct {
	data  []byte
	begin int
	home  *spareBuffers // nil: left to the collector
	class int8          // index into bufferSizes, -1 when the memory is not the loop's
	fresh bool          // WriteAll: the socket was full when this was filled
}

// bufferSizes are the capacities that are kept for reuse. A longer buffer is
// left to the collector.
var bufferSizes = [...]int{512, 4 << 10, 64 << 10}

// spareBytes bounds what a loop keeps of each size, in bytes.
const spareBytes = 1 << 20

// spareBuffers are a loop's buffers that nobody holds, by size.
type spareBuffers struct {
	free    [len(bufferSizes)][]*buffer
	headers []*buffer // without memory, for what is only borrowed
}

// take returns an empty buffer with room for n bytes at least.
func (p *spareBuffers) take(n int) *buffer {
	for class, size := range bufferSizes {
		if n > size {
			continue
		}
		if last := len(p.free[class]) - 1; last >= 0 {
			b := p.free[class][last]
			p.free[class] = p.free[class][:last]
			return b
		}
		return &buffer{data: make([]byte, 0, size), home: p, class: int8(class)}
	}
	return &buffer{data: make([]byte, 0, n), class: -1}
}

// borrow returns a buffer whose memory is data, which stays the caller's.
func (p *spareBuffers) borrow(data []byte) *buffer {
	var b *buffer
	if last := len(p.headers) - 1; last >= 0 {
		b = p.headers[last]
		p.headers = p.headers[:last]
	} else {
		b = &buffer{home: p, class: -1}
	}
	b.data = data
	return b
}

// give takes b back.
func (b *buffer) give() {
	p := b.home
	switch {
	case p == nil:
	case b.class < 0:
		b.data, b.begin, b.fresh = nil, 0, false
		if len(p.headers) < spareBytes/bufferSizes[0] {
			p.headers = append(p.headers, b)
		}
	case len(p.free[b.class])*bufferSizes[b.class] < spareBytes:
		b.data, b.begin, b.fresh = b.data[:0], 0, false
		p.free[b.class] = append(p.free[b.class], b)
	}
}

// left is what has not been consumed.
func (b *buffer) left() []byte { return b.data[b.begin:] }

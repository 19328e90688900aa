package main

import (
	"encoding/binary"
	"fmt"
	"time"
)

// What a request of the rpc server is, and an answer: a head of 16 bytes, and
// content behind it.
//
//	0     what is asked for, or how it was answered
//	1..3  0
//	4..7  size, little endian
//	8..15 the stream that the content is of
//
// A request to hash has size bytes of content. A request to get asks for so many
// bytes of the stream; to nap, for an answer so many milliseconds later.

// rpcKind says what a head is about.
type rpcKind byte

const (
	rpcGet  rpcKind = 1 + iota // asks for content; is answered with it
	rpcHash                    // asks for the SHA-256 of its content; is answered with that
	rpcNap                     // asks to be answered later; is answered with nothing
	rpcLate                    // answers a request that did not become whole in time; the last answer
	rpcBye                     // the server shuts down: requests that come are still answered, as long as it has time
)

const (
	rpcHeadSize = 16
	rpcSizeMax  = 4 << 20
	// rpcPatience is how long a part of a head may wait for its next byte, and
	// contentPatience the same for content. The former passes in every run, so clients
	// that are to be answered send heads whole; the latter is longer than any machine
	// stands still.
	rpcPatience     = 3 * time.Second
	contentPatience = 2 * clientPatience
)

// rpcHead is a head.
type rpcHead struct {
	kind rpcKind
	size int
	key  stream
}

func (h rpcHead) appendTo(p []byte) []byte {
	p = append(p, byte(h.kind), 0, 0, 0)
	p = binary.LittleEndian.AppendUint32(p, uint32(h.size))
	return binary.LittleEndian.AppendUint64(p, uint64(h.key))
}

// parseHead is the head in the first rpcHeadSize bytes of p.
func parseHead(p []byte) (rpcHead, error) {
	h := rpcHead{
		kind: rpcKind(p[0]),
		size: int(binary.LittleEndian.Uint32(p[4:])),
		key:  stream(binary.LittleEndian.Uint64(p[8:])),
	}
	if h.kind < rpcGet || h.kind > rpcBye || p[1]|p[2]|p[3] != 0 || h.size > rpcSizeMax {
		return h, fmt.Errorf("rpc: this is no head: %x", p[:rpcHeadSize])
	}
	return h, nil
}

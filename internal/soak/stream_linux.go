package main

import (
	"encoding/binary"
	"fmt"
)

// A stream is the content of one direction of one connection, of one message or
// of one datagram: every byte follows from the stream's number and the byte's
// position. So whoever gets bytes can tell whether they are the right ones, in
// the right place, of the right stream, and nobody has to keep them.
type stream uint64

// word is the eight bytes from position 8*i on (the finalizer of SplitMix64).
func (s stream) word(i uint64) uint64 {
	x := uint64(s) + (i+1)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill writes what stands from position at on.
func (s stream) fill(p []byte, at int64) {
	for len(p) > 0 {
		w, skip := s.word(uint64(at)>>3), at&7
		if skip == 0 && len(p) >= 8 {
			binary.LittleEndian.PutUint64(p, w)
			p, at = p[8:], at+8
			continue
		}
		p[0] = byte(w >> (8 * skip))
		p, at = p[1:], at+1
	}
}

// check is an error that names the first byte of p that does not stand from
// position at on.
func (s stream) check(p []byte, at int64) error {
	for len(p) > 0 {
		w, skip := s.word(uint64(at)>>3), at&7
		if skip == 0 && len(p) >= 8 {
			if binary.LittleEndian.Uint64(p) == w {
				p, at = p[8:], at+8
				continue
			}
		}
		if want := byte(w >> (8 * skip)); p[0] != want {
			return fmt.Errorf("stream %016x: byte %d is %#02x, and %#02x was sent", uint64(s), at, p[0], want)
		}
		p, at = p[1:], at+1
	}
	return nil
}

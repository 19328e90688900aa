package main

import (
	"fmt"
	"net/http"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// How many bytes the parts of a chunked body may have that are no data.
const (
	maxDigits  = 16      // a chunk's size: 64 bits
	maxLine    = 4 << 10 // the same, with extensions
	maxTrailer = maxHead // all trailer fields
)

// body is the frame that reads past a request's body, of a known length or in
// chunks. It keeps none of it. It stands for
//
//	while (!at_end) at_end = skip(co_await sock.read(buf));
//
// A chunked body (RFC 9112, 7.1) is
//
//	1A;name=value CRLF ...26 bytes... CRLF 0 CRLF Trailer: value CRLF CRLF
//
// and can be cut anywhere, so its states are the places in it.
type body struct {
	sock  *stepio.TCPConn
	in    *stepio.Input // the owner's: where the next request's bytes go
	left  int64         // of this chunk, or of the whole body
	room  int64         // how many bytes may still come: data and chunk extensions
	line  int           // bytes of this line, of the trailer section
	fault int           // the status to refuse the request with
	err   error         // of reading
	state bodyState
	any   bool // some of it has come
}

type bodyState uint8

const (
	bodyDone bodyState = iota // also: there is none

	bodyCounted // of a known length

	bodySize    // hexadecimal digits, one at least
	bodySpace   // space between the size and an extension's semicolon
	bodyExt     // extensions, up to the CR
	bodySizeLF  // LF after the size's line
	bodyData    // a chunk
	bodyDataCR  // CR after the chunk
	bodyDataLF  // its LF
	bodyTrailer // a trailer field's first byte, or the CR of the end
	bodyName    // a trailer field's name
	bodyValue   // its value, up to the CR
	bodyValueLF // LF after it
	bodyEndLF   // LF after everything

	bodyFailed // fault or err says why
)

func (s bodyState) String() string {
	return [...]string{
		"bodyDone", "bodyCounted", "bodySize", "bodySpace", "bodyExt", "bodySizeLF", "bodyData", "bodyDataCR",
		"bodyDataLF", "bodyTrailer", "bodyName", "bodyValue", "bodyValueLF", "bodyEndLF", "bodyFailed",
	}[s]
}

// start begins a body of the given length, -1 for a chunked one, that may have
// room bytes, with what is in hand of it.
func (b *body) start(sock *stepio.TCPConn, in *stepio.Input, length, room int64) {
	*b = body{sock: sock, in: in, left: length, room: room}
	switch {
	case length == 0:
		return
	case length < 0:
		b.left, b.state = 0, bodySize
	case length > room:
		b.refuse(http.StatusRequestEntityTooLarge)
		return
	default:
		b.state = bodyCounted
	}
	in.Discard(b.skip(in.Bytes()))
}

// done reports whether all of it was read.
func (b *body) done() bool { return b.state == bodyDone }

// begun reports whether some of it has come.
func (b *body) begun() bool { return b.any }

// Err is what reading has failed with; io.EOF when the body was cut short.
func (b *body) Err() error { return b.err }

// Step reads until the body's end, or until it is clear that it has none. It
// overwrites t.Scratch().
func (b *body) Step(t *sm.Task) sm.Await {
	for b.state != bodyDone && b.state != bodyFailed {
		n, err := b.sock.Read(t.Scratch())
		if err == stepio.ErrWouldBlock {
			return b.sock.Readable()
		}
		if err != nil {
			b.err, b.state = err, bodyFailed
			return sm.Done
		}
		used := b.skip(t.Scratch()[:n])
		b.in.Put(b.sock, t.Scratch()[used:n])
	}
	return sm.Done
}

// skip goes on with the bytes of p and returns how many of them it has used:
// all of them, unless the body ends there.
func (b *body) skip(p []byte) (used int) {
	b.any = b.any || len(p) > 0
	for used < len(p) && b.state != bodyDone && b.state != bodyFailed {
		switch b.state {
		case bodyCounted, bodyData:
			n := min(b.left, int64(len(p)-used))
			used += int(n)
			if b.left -= n; b.left > 0 {
				break
			}
			if b.state == bodyCounted {
				b.state = bodyDone
			} else {
				b.state = bodyDataCR
			}
		default:
			b.state = b.after(p[used])
			used++
		}
	}
	return used
}

// after is the state after a byte that is not data.
func (b *body) after(c byte) bodyState {
	switch b.state {
	case bodySize:
		digit := hexDigit(c)
		switch {
		case digit >= 0:
			b.left = b.left<<4 | int64(digit)
			if b.left > b.room {
				return b.refuse(http.StatusRequestEntityTooLarge) // so left never overflows
			}
			return b.count(bodySize, maxDigits, http.StatusBadRequest)
		case b.line == 0:
			return b.refuse(http.StatusBadRequest) // no digit
		}
		return b.afterSize(c)
	case bodySpace:
		if c == '\r' {
			return b.refuse(http.StatusBadRequest) // space, and no extension
		}
		return b.afterSize(c)
	case bodyExt:
		switch {
		case c == '\r':
			return bodySizeLF
		case !isFieldByte(c):
			return b.refuse(http.StatusBadRequest)
		}
		return b.countExt(bodyExt)
	case bodySizeLF:
		last := b.left == 0
		b.room -= b.left
		b.line = 0
		if last {
			return b.expect(c, '\n', bodyTrailer)
		}
		return b.expect(c, '\n', bodyData)
	case bodyDataCR:
		return b.expect(c, '\r', bodyDataLF)
	case bodyDataLF:
		return b.expect(c, '\n', bodySize)
	case bodyTrailer:
		if c == '\r' {
			return bodyEndLF
		}
		return b.afterName(c, bodyTrailer)
	case bodyName:
		return b.afterName(c, bodyName)
	case bodyValue:
		switch {
		case c == '\r':
			return bodyValueLF
		case !isFieldByte(c):
			return b.refuse(http.StatusBadRequest)
		}
		return b.countTrailer(bodyValue)
	case bodyValueLF:
		return b.expect(c, '\n', bodyTrailer)
	case bodyEndLF:
		return b.expect(c, '\n', bodyDone)
	default:
		panic(fmt.Sprintf("body.after: state %d", b.state))
	}
}

// afterSize is the state after a byte that follows a chunk's size.
func (b *body) afterSize(c byte) bodyState {
	switch c {
	case '\r':
		return bodySizeLF
	case ';':
		return b.countExt(bodyExt)
	case ' ', '\t':
		return b.countExt(bodySpace)
	}
	return b.refuse(http.StatusBadRequest)
}

// afterName is the state after a byte of a trailer field's name. A field
// without a name, and a folded line, are none.
func (b *body) afterName(c byte, state bodyState) bodyState {
	switch {
	case bytesOf[c]&inToken != 0:
		return b.countTrailer(bodyName)
	case c == ':' && state == bodyName:
		return b.countTrailer(bodyValue)
	}
	return b.refuse(http.StatusBadRequest)
}

func (b *body) expect(c, want byte, next bodyState) bodyState {
	if c != want {
		return b.refuse(http.StatusBadRequest)
	}
	return next
}

// countExt counts a byte of an extension, which is also a part of the body's
// room: tiny chunks with long extensions are no way around the limit.
func (b *body) countExt(next bodyState) bodyState {
	b.room--
	if b.room < b.left {
		return b.refuse(http.StatusRequestEntityTooLarge)
	}
	return b.count(next, maxLine, http.StatusBadRequest)
}

func (b *body) countTrailer(next bodyState) bodyState {
	return b.count(next, maxTrailer, http.StatusRequestHeaderFieldsTooLarge)
}

// count counts a byte of the line or section that may have most of them.
func (b *body) count(next bodyState, most, fault int) bodyState {
	if b.line++; b.line > most {
		return b.refuse(fault)
	}
	return next
}

func (b *body) refuse(fault int) bodyState {
	b.fault = fault
	b.state = bodyFailed
	return bodyFailed
}

// hexDigit is the value of a hexadecimal digit, -1 when c is none.
func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Inspect tells Dump where in the body it is.
func (b *body) Inspect() (state string, callee sm.Frame) { return b.state.String(), nil }

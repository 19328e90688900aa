package load

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"

	"github.com/stepio-go/stepio/bench/internal/contend"
)

// maxHead is the longest head of a response in bytes.
const maxHead = 8 << 10

// parseResponse looks for one whole response at the start of b and returns its
// length, 0 when more bytes are needed. The response must have status 200, one
// Content-Length and the body want. The answer does not depend on where the
// response was cut, except that an error may be found before its end has come.
func parseResponse(b, want []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 && len(b) < maxHead+4 {
		return 0, nil
	}
	if end < 0 || end > maxHead {
		return 0, fmt.Errorf("the head of a response is longer than %d bytes", maxHead)
	}
	size, err := parseHead(b[:end])
	if err != nil {
		return 0, err
	}
	if size != len(want) {
		return 0, fmt.Errorf("expected Content-Length %d, got %d", len(want), size)
	}
	body := b[end+4:]
	body = body[:min(len(body), size)]
	if !bytes.Equal(body, want[:len(body)]) {
		return 0, fmt.Errorf("expected the body %q, got %q", want, body)
	}
	if len(body) < size {
		return 0, nil
	}
	return end + 4 + size, nil
}

// parseHead reads status line and fields (RFC 9112, without the obsolete line
// folding) and returns the Content-Length.
func parseHead(b []byte) (int, error) {
	line, b, _ := bytes.Cut(b, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) || len(line) > 12 && line[12] != ' ' {
		return 0, fmt.Errorf("expected the status line HTTP/1.1 200, got %q", line)
	}
	size := -1
	for len(b) > 0 {
		line, b, _ = bytes.Cut(b, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return 0, fmt.Errorf("not a header field: %q", line)
		}
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			text := string(bytes.Trim(value, " \t"))
			n, err := strconv.ParseUint(text, 10, 31)
			if err != nil {
				return 0, fmt.Errorf("Content-Length %q: %w", text, err)
			}
			if size >= 0 {
				return 0, errors.New("a response has two Content-Length fields")
			}
			size = int(n)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return 0, fmt.Errorf("a response has Transfer-Encoding %q, not Content-Length", bytes.Trim(value, " \t"))
		}
	}
	if size < 0 {
		return 0, errors.New("a response has no Content-Length")
	}
	return size, nil
}

// requests is the protocol of HTTP/1.1 connections.
type requests struct {
	out   []byte // request after request, as many as are ever under way
	one   int    // length of one
	last  []byte // the last good response
	rests [][]byte
}

func newRequests(addr string, conns, depth int) *requests {
	one := []byte("GET /hello HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
	return &requests{out: bytes.Repeat(one, depth), one: len(one), rests: make([][]byte, conns)}
}

func (r *requests) length() int { return r.one }

func (r *requests) next(_ uint32, s *stream) []byte {
	return r.out[s.sentOff : int(s.want-s.sent)*r.one]
}

func (r *requests) take(id uint32, s *stream, data []byte) (done int, err error) {
	rest := &r.rests[id&indexMask]
	if len(*rest) > 0 { // a response was cut: go on from what there is of it
		*rest = append(*rest, data...)
		data = *rest
	}
	for len(data) > 0 {
		if s.got == s.want {
			return done, unexpected(data)
		}
		n, err := r.response(data)
		if err != nil {
			return done, fmt.Errorf("response %d: %w", s.got, err)
		}
		if n == 0 {
			break
		}
		data = data[n:]
		s.got++
		done++
	}
	*rest = append((*rest)[:0], data...)
	return done, nil
}

// response is parseResponse, with a short cut: what equals the last good
// response to the byte is a good one. Only its date changes, once a second.
func (r *requests) response(b []byte) (int, error) {
	if len(r.last) > 0 && bytes.HasPrefix(b, r.last) {
		return len(r.last), nil
	}
	n, err := parseResponse(b, hello)
	if n > 0 {
		r.last = append(r.last[:0], b[:n]...)
	}
	return n, err
}

var hello = []byte(contend.Hello)

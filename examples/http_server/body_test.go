package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
)

// startBody is a body of the given length, -1 for chunked, with no connection
// to read from, and what it makes of text.
func startBody(t testing.TB, length int64, text string) *body {
	var b body
	b.start(nil, new(stepio.Input), length, quick.bodyBytes)
	used := b.skip([]byte(text))
	if !b.done() && b.fault == 0 {
		require.Equal(t, len(text), used, "a body that has not ended uses everything")
	}
	return &b
}

var bodies = []struct {
	name   string
	length int64 // -1: chunked
	text   string
	fault  int // 0: it ends where the text does
}{
	{"a body of known length", 5, "12345", 0},
	{"an empty chunked body", -1, "0\r\n\r\n", 0},
	{"chunks", -1, "5\r\n12345\r\n1\r\n\n\r\n0\r\n\r\n", 0},
	{"hexadecimal sizes in both cases, with zeros before", -1, "00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n", 0},
	{"extensions", -1, "1;a\r\nx\r\n1;a=b;c=\"d;e\"\r\nx\r\n0;last\r\n\r\n", 0},
	{"space around an extension", -1, "1 \t; a = b\r\nx\r\n0\r\n\r\n", 0},
	{"trailers", -1, "0\r\nA: b\r\nLong-Name:\r\n\r\n", 0},
	{"data that looks like an end", -1, "5\r\n0\r\n\r\n\r\n0\r\n\r\n", 0},
	{"no size", -1, "\r\n12345\r\n0\r\n\r\n", 400},
	{"a size that is no number", -1, "x\r\n", 400},
	{"a negative size", -1, "-1\r\n", 400},
	{"a size with a plus sign", -1, "+1\r\nx\r\n", 400},
	{"a size with a prefix", -1, "0x1\r\nx\r\n", 400},
	{"space before a size", -1, " 1\r\nx\r\n", 400},
	{"space after a size", -1, "1 \r\nx\r\n", 400},
	{"a size of too many digits", -1, strings.Repeat("0", 17) + "\r\n\r\n", 400},
	{"a size beyond 64 bits", -1, "fffffffffffffffff\r\n", 413},
	{"a chunk beyond the limit", -1, "a00001\r\n", 413},
	{"chunks that are too much together", -1, "1\r\nx\r\na00000\r\n", 413},
	{"a bare LF after a size", -1, "1\nx\r\n0\r\n\r\n", 400},
	{"a bare CR after a size", -1, "1\rx\r\n0\r\n\r\n", 400},
	{"a bare LF in an extension", -1, "1;a\nx\r\n0\r\n\r\n", 400},
	{"NUL in an extension", -1, "1;a\x00\r\nx\r\n0\r\n\r\n", 400},
	{"a chunk that is longer than its size", -1, "1\r\nxy\r\n0\r\n\r\n", 400},
	{"a chunk that ends in a bare LF", -1, "1\r\nx\n0\r\n\r\n", 400},
	{"a bare LF after the last chunk", -1, "0\r\n\n", 400},
	{"a bare LF in a trailer", -1, "0\r\nA: b\n\r\n", 400},
	{"a bare CR in a trailer", -1, "0\r\nA: b\rc\r\n\r\n", 400},
	{"a folded trailer", -1, "0\r\nA: b\r\n c\r\n\r\n", 400},
	{"space before a trailer's colon", -1, "0\r\nA : b\r\n\r\n", 400},
	{"a trailer without a name", -1, "0\r\n: b\r\n\r\n", 400},
	{"a trailer without a colon", -1, "0\r\nA\r\n\r\n", 400},
	{"an extension that is too long", -1, "1;" + strings.Repeat("a", maxLine) + "\r\nx\r\n", 400},
	{"trailers that are too long", -1, "0\r\nA:" + strings.Repeat("a", maxTrailer) + "\r\n\r\n", 431},
	{"trailers that are too many", -1, "0\r\n" + strings.Repeat("A:\r\n", maxTrailer/2+1) + "\r\n", 431},
}

func TestBodyEndsWhereItEnds(t *testing.T) {
	for _, c := range bodies {
		t.Run(c.name, func(t *testing.T) {
			whole := startBody(t, c.length, c.text)
			assert.Equal(t, c.fault, whole.fault)
			assert.Equal(t, c.fault == 0, whole.done())
			if c.fault == 0 {
				b := startBody(t, c.length, "")
				assert.Equal(t, len(c.text), b.skip([]byte(c.text+"GET")), "what follows is not the body's")
			}
			for cut := range min(len(c.text), 256) {
				b := startBody(t, c.length, c.text[:cut])
				b.skip([]byte(c.text[cut:]))
				assert.Equal(t, []any{whole.state, whole.fault, whole.left, whole.room}, []any{b.state, b.fault, b.left, b.room}, "cut at %d", cut)
			}
		})
	}
}

func TestBodyExtensionsCountAsBody(t *testing.T) {
	const chunk = "1;" + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" + "\r\nx\r\n"
	b := startBody(t, -1, "")
	sent := 0
	for b.fault == 0 && sent < 2*int(quick.bodyBytes) {
		b.skip([]byte(chunk))
		sent += len(chunk)
	}
	assert.Equal(t, http.StatusRequestEntityTooLarge, b.fault)
}

// FuzzBody looks for a chunked body whose end net/http sees elsewhere, and for
// a result that depends on where it is cut.
func FuzzBody(f *testing.F) {
	for _, c := range bodies {
		if c.length < 0 {
			f.Add([]byte(c.text), 3)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		b := startBody(t, -1, "")
		used := b.skip(text)
		if 0 <= cut && cut <= len(text) {
			pieces := startBody(t, -1, "")
			n := pieces.skip(text[:cut])
			if n == cut {
				n += pieces.skip(text[cut:])
			}
			assert.Equal(t, []any{used, b.state, b.fault}, []any{n, pieces.state, pieces.fault})
		}
		if !b.done() {
			return
		}
		head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		r := bufio.NewReaderSize(io.MultiReader(strings.NewReader(head), bytes.NewReader(text)), 1<<16)
		req, err := http.ReadRequest(r)
		require.NoError(t, err)
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return // stricter than we are, in its limits
		}
		rest, err := io.ReadAll(r)
		require.NoError(t, err)
		assert.Equal(t, string(text[used:]), string(rest), "where the body ends")
	})
}

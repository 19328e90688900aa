package main

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refused are heads with a fault, and the status that they are answered with.
// Where a request is malformed only in passing, a sound one has stood there.
var refused = []struct {
	name  string
	head  string
	fault int
}{
	{"both lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	{"both lengths, the other way round", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400},
	{"two lengths that differ", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
	{"two lengths that are equal", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", 400},
	{"a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400},
	{"a length with a plus sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400},
	{"a negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", 400},
	{"a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\n", 400},
	{"a length with space inside", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 5\r\n\r\n", 400},
	{"an empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", 400},
	{"a length beyond 64 bits", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551621\r\n\r\n", 413},
	{"a length beyond the limit", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10485761\r\n\r\n", 413},
	{"a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX-Long: one\r\n two\r\n\r\n", 400},
	{"a folded line, by a tab", "GET / HTTP/1.1\r\nHost: a\r\nX-Long: one\r\n\ttwo\r\n\r\n", 400},
	{"a fold right after the request line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
	{"a bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
	{"bare LFs only", "GET / HTTP/1.1\nHost: a\n\n", 400},
	{"a bare LF for the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
	{"a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},
	{"a bare CR in the request line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"two CRs before the LF", "GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400},
	{"NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400},
	{"NUL in a path", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"another control character", "GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400},
	{"space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n", 400},
	{"a tab before the colon", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n", 400},
	{"a field without a colon", "GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400},
	{"a field without a name", "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400},
	{"a name that is no token", "GET / HTTP/1.1\r\nHost: a\r\nX(y): x\r\n\r\n", 400},
	{"a coding before chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400},
	{"chunked twice", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	{"a coding that is nearly chunked", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400},
	{"chunked to Unicode alone", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\u212aed\r\n\r\n", 400},
	{"chunked with a parameter", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 400},
	{"chunked after a vertical tab", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400},
	{"identity", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 400},
	{"an empty coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400},
	{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
	{"a trailer that would be a length", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n", 400},
	{"no Host in HTTP/1.1", "GET / HTTP/1.1\r\n\r\n", 400},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
	{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400},
	{"a list of Hosts", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400},
	{"a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
	{"a Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
	{"a Host with a port that is none", "GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", 400},
	{"a Host that is half a bracket", "GET / HTTP/1.1\r\nHost: [\r\n\r\n", 400},
	{"a Host that is no IPv6 address", "GET / HTTP/1.1\r\nHost: [::x]\r\n\r\n", 400},
	{"a method that is no token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"two spaces before the version", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
	{"an empty request line", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"no version: HTTP/0.9", "GET /\r\n\r\n", 400},
	{"a version of another protocol", "GET / HTCPCP/1.0\r\nHost: a\r\n\r\n", 400},
	{"a version in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
	{"a version of two digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
	{"a version without a minor one", "GET / HTTP/1\r\nHost: a\r\n\r\n", 400},
	{"a version with a sign", "GET / HTTP/+1.1\r\nHost: a\r\n\r\n", 400},
	{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
	{"HTTP/3.7", "GET / HTTP/3.7\r\nHost: a\r\n\r\n", 505},
	{"HTTP/0.9, spelt out", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505},
	{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
	{"the first bytes of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
	{"an asterisk for another method than OPTIONS", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a path without a slash", "GET hello HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a fragment", "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"a byte beyond ASCII in the path", "GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"half an escape", "GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an absolute target of another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an absolute target without a host", "GET http:///hello HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an absolute target with a user", "GET http://u:p@a/hello HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an absolute target, but no Host", "GET http://a/hello HTTP/1.1\r\n\r\n", 400},
	{"an opaque target", "GET http:hello HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT to a path", "CONNECT /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"CONNECT without a port", "CONNECT a: HTTP/1.1\r\nHost: a\r\n\r\n", 400},
	{"an expectation that nobody knows", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: miracles\r\n\r\n", 417},
	{"a head of more than 16 KiB", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n", 431},
	{"a target of more than 16 KiB", "GET /" + strings.Repeat("x", maxHead) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431},
	{"a method of more than 16 KiB", strings.Repeat("x", maxHead) + " / HTTP/1.1\r\nHost: a\r\n\r\n", 431},
}

// accepted are heads that look odd and are sound, with what they ask for.
var accepted = []struct {
	name string
	head string
	want parsed
}{
	{"the least there is", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/"}},
	{"HTTP/1.0 without a Host", "GET / HTTP/1.0\r\n\r\n", parsed{path: "/", closes: true}},
	{"HTTP/1.0 that stays", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", parsed{path: "/"}},
	{"a later HTTP/1", "GET / HTTP/1.7\r\nHost: a\r\n\r\n", parsed{path: "/"}},
	{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", parsed{path: "/"}},
	{"an IPv6 Host", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", parsed{path: "/"}},
	{"a query", "GET /hello?a=b&c HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/hello"}},
	{"an escaped path", "GET /%68ello HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/hello"}},
	{"an absolute target", "GET http://b:80/hello HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/hello"}},
	{"an absolute target in capitals", "GET HTTP://B/hello HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/hello"}},
	{"an absolute target without a path", "GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: ""}},
	{"an asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "*"}},
	{"CONNECT", "CONNECT b:443 HTTP/1.1\r\nHost: b\r\n\r\n", parsed{closes: true}},
	{"a method of one's own", "X-!~ / HTTP/1.1\r\nHost: a\r\n\r\n", parsed{path: "/"}},
	{"close in a list", "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", parsed{path: "/", closes: true}},
	{"close in the second of two fields", "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close\r\n\r\n", parsed{path: "/", closes: true}},
	{"close and keep-alive", "GET / HTTP/1.0\r\nConnection: close, keep-alive\r\n\r\n", parsed{path: "/", closes: true}},
	{"space around a value", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\t 5 \t\r\n\r\n", parsed{path: "/", length: 5}},
	{"no space before a value", "POST / HTTP/1.1\r\nHost:a\r\nContent-Length:5\r\n\r\n", parsed{path: "/", length: 5}},
	{"zeros before a length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000000005\r\n\r\n", parsed{path: "/", length: 5}},
	{"a chunked body", "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n", parsed{path: "/", length: -1}},
	{"a GET with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", parsed{path: "/", length: 3}},
	{"an empty value", "GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", parsed{path: "/"}},
	{"a value beyond ASCII", "GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\r\n\r\n", parsed{path: "/"}},
	{"an expectation", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n", parsed{path: "/", length: 5, expects: true}},
	{"an expectation of HTTP/1.0, which has none", "POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: miracles\r\n\r\n", parsed{path: "/", length: 5, closes: true}},
	{"a head of just 16 KiB", ofSize(maxHead), parsed{path: "/"}},
}

// parsed is what a head says.
type parsed struct {
	path    string
	length  int64 // of the body, -1: chunked
	closes  bool
	expects bool
}

// body is what such a head announces.
func (p parsed) body() string {
	if p.length < 0 {
		return "0\r\n\r\n"
	}
	return strings.Repeat("x", int(p.length))
}

// ofSize is a sound head of n bytes.
func ofSize(n int) string {
	const start, end = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"
	return start + strings.Repeat("x", n-len(start)-len(end)) + end
}

// judge scans and parses a head that comes in one piece.
func judge(s *server, b []byte) (size int, req *http.Request, fault int) {
	size, fault = scanHead(b, 0)
	if size > 0 {
		req, fault = s.parse(b[:size])
	}
	return size, req, fault
}

func TestHeadFaultsAreFound(t *testing.T) {
	s := newServer(nil, quick)
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			_, req, fault := judge(s, []byte(c.head))
			if fault == 0 && req != nil { // a body that is too long is seen by the body's frame
				fault = startBody(t, req.ContentLength, "").fault
			}
			assert.Equal(t, c.fault, fault)
		})
	}
}

func TestHeadThatIsSoundIsParsed(t *testing.T) {
	s := newServer(nil, quick)
	for _, c := range accepted {
		t.Run(c.name, func(t *testing.T) {
			size, req, fault := judge(s, []byte(c.head+"rest"))
			require.Zero(t, fault)
			require.Equal(t, len(c.head), size)
			assert.Equal(t, c.want, parsed{req.URL.Path, req.ContentLength, closes(req), expectsContinue(req)})
		})
	}
}

// However a head is cut, the scan ends where it ends in one piece, and with the
// same fault.
func TestHeadScanDoesNotDependOnTheCuts(t *testing.T) {
	heads := make(map[string]string)
	for _, c := range refused {
		heads[c.name] = c.head
	}
	for _, c := range accepted {
		heads[c.name] = c.head
	}
	for name, head := range heads {
		b := []byte(head)
		size, fault := scanHead(b, 0)
		end := 0 // of the piece in which the scan ended
		for scanned := 0; end < len(b) && (end == 0 || scanned == end); {
			end++
			gotSize, gotFault := scanHead(b[:end], scanned)
			if gotSize != 0 || gotFault != 0 {
				assert.Equal(t, []int{size, fault}, []int{gotSize, gotFault}, "%s, byte by byte", name)
				break
			}
			scanned = end
		}
		if size > 0 {
			assert.Equal(t, size, end, "%s: no sooner and no later", name)
		}
	}
}

func TestHeadParseAllocatesWhatReadRequestDoes(t *testing.T) {
	s := newServer(nil, quick)
	head := []byte("GET /hello HTTP/1.1\r\nHost: example.com\r\nUser-Agent: x\r\n\r\n")
	ours := testing.AllocsPerRun(100, func() { s.parse(head) })
	reader, buffered := bytes.NewReader(nil), bufio.NewReader(nil)
	theirs := testing.AllocsPerRun(100, func() {
		reader.Reset(head)
		buffered.Reset(reader)
		_, _ = http.ReadRequest(buffered) // sound, as the tests above show
	})
	assert.LessOrEqual(t, ours, theirs)
}

// FuzzHead looks for a head that is accepted and means something else to
// net/http, and for a panic.
func FuzzHead(f *testing.F) {
	for _, c := range refused {
		f.Add([]byte(c.head), 7)
	}
	for _, c := range accepted {
		f.Add([]byte(c.head), 20)
	}
	s := newServer(nil, quick)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		size, req, fault := judge(s, b)
		scanSize, scanFault := scanHead(b, 0)
		if 0 <= cut && cut <= len(b) {
			if earlySize, earlyFault := scanHead(b[:cut], 0); earlySize == 0 && earlyFault == 0 {
				earlySize, earlyFault = scanHead(b, cut)
				assert.Equal(t, []int{scanSize, scanFault}, []int{earlySize, earlyFault}, "cut at %d", cut)
			} else {
				assert.Equal(t, []int{scanSize, scanFault}, []int{earlySize, earlyFault}, "cut at %d", cut)
			}
		}
		if req == nil || fault != 0 {
			return
		}
		require.LessOrEqual(t, size, maxHead)
		r := bufio.NewReaderSize(bytes.NewReader(b), 1<<16)
		theirs, err := http.ReadRequest(r)
		require.NoError(t, err)
		rest := len(b) - size
		if theirs.Body == http.NoBody {
			_, _ = r.Peek(rest) // fills the buffer
			assert.Equal(t, rest, r.Buffered(), "where the head ends")
		}
		assert.Equal(t, theirs.Method, req.Method)
		assert.Equal(t, theirs.URL, req.URL)
		assert.Equal(t, theirs.ContentLength, req.ContentLength)
		assert.Equal(t, theirs.TransferEncoding, req.TransferEncoding)
		assert.Equal(t, theirs.Close, req.Close)

		// And it has the shape that no server reads otherwise.
		head := b[:size]
		assert.Equal(t, 1, bytes.Count(head, []byte("\r\n\r\n")))
		assert.Equal(t, bytes.Count(head, []byte("\r\n")), bytes.Count(head, []byte("\n")))
		assert.Equal(t, bytes.Count(head, []byte("\r\n")), bytes.Count(head, []byte("\r")))
		assert.NotContains(t, string(head), "\x00")
		assert.NotContains(t, string(head), "\n ")
		assert.NotContains(t, string(head), "\n\t")
		lower := strings.ToLower(string(head))
		assert.LessOrEqual(t, strings.Count(lower, "\r\ncontent-length:")+strings.Count(lower, "\r\ntransfer-encoding:"), 1)
	})
}

package main

import (
	"bytes"
	"net/http"
	"net/netip"
	"strings"
)

// The head of a request: where it ends, whether it is sound, and what it says.
//
// net/http.ReadRequest parses it, and is liberal: it takes a bare LF for the end
// of a line, joins folded lines, keeps one of two equal lengths. Another server
// in front may read the same bytes differently, and then the two disagree on
// where a request ends, which is how requests are smuggled. So the head is
// checked here first, by the letter of RFC 9112, and what is left is unambiguous.
//
// A fault is the status code to refuse a request with, 0 for none.

// maxHead is the longest head that is accepted, with its empty line.
const maxHead = 16 << 10

// scanHead looks for the end of the head that b begins with. The first `from`
// bytes were scanned before, with no end and no fault: so a head that comes
// byte by byte is scanned once.
//
// The result is one of: the head's size, its empty line included; 0 and no
// fault when it is not whole yet; a fault, as soon as there is one: a byte that
// has no place in any head (a control character, a CR or LF on its own), or too
// many of them.
func scanHead(b []byte, from int) (size, fault int) {
	for i := from; i < min(len(b), maxHead); i++ {
		afterCR := i > 0 && b[i-1] == '\r'
		switch c := b[i]; {
		case c == '\n':
			if !afterCR {
				return 0, http.StatusBadRequest
			}
			if i >= 2 && b[i-2] == '\n' {
				return i + 1, 0
			}
		case afterCR:
			return 0, http.StatusBadRequest
		case c == '\r', c == '\t':
		case c < ' ', c == 0x7f:
			return 0, http.StatusBadRequest
		}
	}
	if len(b) >= maxHead {
		return 0, http.StatusRequestHeaderFieldsTooLarge
	}
	return 0, 0
}

// parse checks and parses a head that scanHead has found the end of. The
// request's body is not for reading: body.go does that.
func (s *server) parse(head []byte) (req *http.Request, fault int) {
	if fault := checkHead(head); fault != 0 {
		return nil, fault
	}
	s.head.Reset(head)
	s.reader.Reset(&s.head)
	req, err := http.ReadRequest(s.reader)
	if err != nil {
		return nil, http.StatusBadRequest
	}
	for _, expectation := range req.Header["Expect"] {
		if req.ProtoAtLeast(1, 1) && !strings.EqualFold(expectation, "100-continue") {
			return req, http.StatusExpectationFailed
		}
	}
	return req, 0
}

// expectsContinue reports whether the client waits for us before it sends the
// body. A client of HTTP/1.0 does not know about that (RFC 9110, 10.1.1).
func expectsContinue(req *http.Request) bool {
	return req.ProtoAtLeast(1, 1) && req.Header.Get("Expect") != ""
}

// closes reports whether the connection ends with the answer to req: because
// the client says so, or because it has asked for a tunnel, and what it sends
// next may not be HTTP.
func closes(req *http.Request) bool { return req.Close || req.Method == http.MethodConnect }

// checkHead checks a head by the letter, from its request line to the empty
// line. That its bytes are those of a head, scanHead has seen to.
func checkHead(head []byte) (fault int) {
	line, fields := cutLine(head)
	minor, fault := checkRequestLine(line)
	if fault != 0 {
		return fault
	}
	var hosts, lengths, codings int
	tooLong := false
	for {
		line, fields = cutLine(fields)
		if len(line) == 0 {
			break
		}
		// A space before the colon and a folded line fail here: neither is a token.
		name, value, found := bytes.Cut(line, []byte{':'})
		if !found || !isToken(name) {
			return http.StatusBadRequest
		}
		value = bytes.Trim(value, " \t")
		sound := true
		switch len(name) {
		case len("host"):
			if equalFold(name, "host") {
				hosts++
				sound = len(value) == 0 || isHost(value)
			}
		case len("content-length"):
			if equalFold(name, "content-length") {
				lengths++
				sound = isNumber(value)
				tooLong = len(bytes.TrimLeft(value, "0")) > 18 // beyond an int64, or nearly so
			}
		case len("transfer-encoding"):
			if equalFold(name, "transfer-encoding") {
				codings++
				sound = equalFold(value, "chunked")
			}
		}
		if !sound {
			return http.StatusBadRequest
		}
	}
	switch {
	case hosts > 1, hosts == 0 && minor >= 1:
		return http.StatusBadRequest
	case lengths+codings > 1: // even if they agree: who has joined them, and why?
		return http.StatusBadRequest
	case codings > 0 && minor == 0: // there was none in HTTP/1.0, and an old proxy would not know
		return http.StatusBadRequest
	case tooLong:
		return http.StatusRequestEntityTooLarge
	}
	return 0
}

// cutLine cuts the first line off b. Every line of a head ends in CRLF.
func cutLine(b []byte) (line, rest []byte) {
	end := bytes.IndexByte(b, '\r')
	return b[:end], b[end+2:]
}

// checkRequestLine checks "METHOD TARGET HTTP/1.minor".
func checkRequestLine(line []byte) (minor, fault int) {
	method, rest, _ := bytes.Cut(line, []byte{' '})
	target, version, _ := bytes.Cut(rest, []byte{' '})
	if !isToken(method) || !isVersion(version) {
		return 0, http.StatusBadRequest
	}
	if version[5] != '1' {
		if string(line) == "PRI * HTTP/2.0" {
			return 0, http.StatusBadRequest // no request, but a connection of another protocol
		}
		return 0, http.StatusHTTPVersionNotSupported
	}
	if !isTarget(string(method), target) {
		return 0, http.StatusBadRequest
	}
	return int(version[7] - '0'), 0
}

func isVersion(b []byte) bool {
	return len(b) == len("HTTP/1.1") && string(b[:5]) == "HTTP/" && isDigit(b[5]) && b[6] == '.' && isDigit(b[7])
}

// isTarget checks the form of a request's target (RFC 9112, 3.2). The details
// of a path are left to package url.
func isTarget(method string, target []byte) bool {
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	switch {
	case method == http.MethodConnect:
		return isHost(target) && isDigit(target[len(target)-1]) && bytes.LastIndexByte(target, ':') > bytes.LastIndexByte(target, ']')
	case len(target) == 0:
		return false
	case target[0] == '/':
		return true
	case string(target) == "*":
		return method == http.MethodOptions
	}
	scheme, rest, found := bytes.Cut(target, []byte("://"))
	if !found || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return false
	}
	if end := bytes.IndexAny(rest, "/?"); end >= 0 {
		rest = rest[:end]
	}
	return isHost(rest)
}

// isHost checks "host" or "host:port": a name, an IPv4 address, or an IPv6
// address in brackets, and no user name (RFC 9110, 4.2.4).
func isHost(b []byte) bool {
	host, port := b, []byte(nil)
	if colon := bytes.LastIndexByte(b, ':'); colon > bytes.LastIndexByte(b, ']') {
		host, port = b[:colon], b[colon+1:]
	}
	if len(host) == 0 || len(port) > 0 && (!isNumber(port) || len(port) > 5) {
		return false
	}
	if literal, ok := bytes.CutPrefix(host, []byte{'['}); ok {
		literal, ok = bytes.CutSuffix(literal, []byte{']'})
		addr, err := netip.ParseAddr(string(literal))
		return ok && err == nil && addr.Is6() && addr.Zone() == ""
	}
	for _, c := range host {
		if bytesOf[c]&inHost == 0 {
			return false
		}
	}
	return true
}

func isNumber(b []byte) bool {
	for _, c := range b {
		if !isDigit(c) {
			return false
		}
	}
	return len(b) > 0
}

func isToken(b []byte) bool {
	for _, c := range b {
		if bytesOf[c]&inToken == 0 {
			return false
		}
	}
	return len(b) > 0
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isFieldByte reports whether c may stand in the value of a field.
func isFieldByte(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

// equalFold compares b with a text in lower case, in ASCII alone: to Unicode,
// the Kelvin sign is a k.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// bytesOf says where a byte may stand.
var bytesOf = func() (classes [256]uint8) {
	const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	for class, set := range map[uint8]string{
		inToken: alphanumeric + "!#$%&'*+-.^_`|~",
		inHost:  alphanumeric + "-._~%!$&'()*+,;=",
	} {
		for i := range len(set) {
			classes[set[i]] |= class
		}
	}
	return classes
}()

const (
	inToken uint8 = 1 << iota // a method, the name of a field: RFC 9110, 5.6.2
	inHost                    // the name of a host: RFC 3986, 3.2.2
)

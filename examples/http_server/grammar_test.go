package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// A grammar of odd requests: every part is drawn from what is sound and, now and
// then, from what is not. RFC 9112 is the order: request line, fields, body.

// grammar writes one request.
type grammar struct {
	rnd     *rand.Rand
	rate    int // how often a part is odd, of 100
	classes []string
	text    strings.Builder
}

// randomOddity is a request by the grammar. Its class is that of what is odd in it.
func randomOddity(rnd *rand.Rand) oddity {
	g := &grammar{rnd: rnd, rate: []int{1, 2, 4, 10}[rnd.IntN(4)]}
	if g.odd("empty line") {
		g.put("\r\n", "\n", "\r\n\r\n", " \r\n", "\r", "\x00")
	}
	g.requestLine()
	body := g.fields()
	g.text.WriteString(body)
	if g.odd("empty line") {
		g.put("\r\n", "\n", "\r\n\r\n", "\x00", " ")
	}
	if len(g.classes) == 0 {
		g.classes = []string{"sound"}
	}
	class := g.classes[0]
	if len(g.classes) > 1 {
		class = "several"
	}
	return oddity{class: "random: " + class, name: strings.Join(g.classes, ", "), text: g.text.String()}
}

// odd decides whether a part is odd, and notes of which class it is then.
func (g *grammar) odd(class string) bool {
	if g.rnd.IntN(100) >= g.rate {
		return false
	}
	if !slices.Contains(g.classes, class) {
		g.classes = append(g.classes, class)
	}
	return true
}

func (g *grammar) pick(choices ...string) string { return choices[g.rnd.IntN(len(choices))] }

func (g *grammar) put(choices ...string) { g.text.WriteString(g.pick(choices...)) }

// lineEnd is what ends a line.
func (g *grammar) lineEnd() string {
	if !g.odd("line ends") {
		return "\r\n"
	}
	return g.pick("\n", "\r", "\r\r\n", "\n\r", "\r\n\r", " \r\n", "\x0b\r\n", "\x00\r\n", "\x00", "\x85", "\r \n", "\\r\\n")
}

// within puts a byte that may not be there somewhere into text.
func (g *grammar) within(text string) string {
	at := g.rnd.IntN(len(text) + 1)
	return text[:at] + g.pick("\x00", "\r", "\n", "\t", " ", "\x0b", "\x0c", "\x7f", "\x80", "\xa0", "\xff", "\xc2\xa0", "\"", "\\", ",", ";", ":", "\r\n ", "\r\n\t", "\r\n") + text[at:]
}

func (g *grammar) requestLine() {
	if g.odd("method") {
		g.put("get", "G(T", "", " GET", "POST,", "PRI", "X-OWN", "\x00GET", "GET\t", "\"GET\"", "CONNECT", "TRACE", "TRACK", strings.Repeat("M", 64))
	} else {
		g.put("GET", "GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH")
	}
	if g.odd("request line") {
		g.put("  ", "\t", "", "\x0b", "\r", " \t", "\x00")
	} else {
		g.put(" ")
	}
	if g.odd("target") {
		g.put("http://b/odd", "HTTP://B:80/odd?x=y", "http://b", "http://b?x", "https://b/odd", "//b/odd", "*", "b:443", "odd", "", "/a b", "/\x00", "/#f",
			"/%zz", "/%00", "/%2e%2e/odd", "/../odd", "/./odd", "/odd\\..", "ftp://b/odd", "http:/odd", "http:///odd", "http://u@b/odd", "/\xff", "/\x7f",
			"/odd\r\nX: y", "/odd HTTP/1.1", "?x", "/"+strings.Repeat("a", 5000))
	} else {
		g.put("/odd", "/odd?x=y", "/odd/%41", "/")
	}
	if g.odd("request line") {
		g.put("  ", "\t", "", " \t", "\x0c")
	} else {
		g.put(" ")
	}
	if g.odd("version") {
		g.put("HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.01", "HTTP/1", "HTTP/1.",
			"HTTP/.1", "HTTP/1,1", "HTTP/ 1.1", "HTTP /1.1", "", "HTTP/1.1 x", "HTTP/11", "HTTPS/1.1", "HTTP/-1.1", "HTTP/1.1\t")
	} else {
		g.put("HTTP/1.1")
	}
	g.text.WriteString(g.lineEnd())
}

// fields writes the fields and the empty line, and returns the body.
func (g *grammar) fields() (body string) {
	var list []string
	add := func(name, value string) { list = append(list, g.field(name, value)) }
	switch {
	case g.odd("Host"):
		switch g.rnd.IntN(4) {
		case 0: // none
		case 1:
			add("Host", "a")
			add("Host", g.pick("a", "b", ""))
		default:
			add("Host", g.pick("", "a:", "a:80x", "a/b", "u@a", "a b", "a,b", "[::1]", "[::x]", "a\x00", "http://a", "a:99999", ".", "a\\b", "\xff"))
		}
	default:
		add("Host", "a")
	}
	if g.odd("Connection") {
		add("Connection", g.pick("close", "keep-alive", "keep-alive, close", "Content-Length", "Transfer-Encoding", "Host", "Upgrade", "TE", ",", "", "x\x0b", "close;x", "\"close\""))
	}
	if g.odd("Expect") {
		add("Expect", g.pick("100-continue", "100-Continue", "100-continue, x", "miracles", "", "100-continue\x00", "100"))
	}
	if g.odd("fields") {
		add(g.pick("X", "Upgrade", "TE", "Trailer", "X-HTTP-Method-Override", "Content-Encoding", "Range", "X_Y", "", "X Y", "X\x00", "Cookie"),
			g.pick("y", "h2c", "trailers", "Content-Length", "", "chunked", "gzip", "bytes=0-", strings.Repeat("v", 9000), "\xff\xfe", "a\x01b"))
	}
	length, chunks := g.framing(add)
	g.rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for _, field := range list {
		g.text.WriteString(field + g.lineEnd())
	}
	g.text.WriteString(g.lineEnd())
	switch {
	case chunks:
		return g.chunked(inner)
	case length < len(inner):
		return "{1,2}{3,4}"[:length]
	}
	return inner + strings.Repeat("z", length-len(inner))
}

// field is one field's line.
func (g *grammar) field(name, value string) string {
	if g.odd("field syntax") {
		switch g.rnd.IntN(8) {
		case 0:
			name = g.within(name)
		case 1:
			value = g.within(value)
		case 2:
			return name + g.pick(" :", "\t:", "", "::", "\x00:", ";", "=", " ") + value
		case 3:
			return name + ":\r\n" + g.pick(" ", "\t") + value
		case 4:
			return g.pick(" ", "\t", "\x00", "\x0b", "\"") + name + ": " + value
		case 5:
			return strings.ReplaceAll(name, "-", "_") + ": " + value
		case 6:
			return "X: y" + g.pick("\n", "\r", "\r\n ", "\x0b", "\x85") + name + ": " + value
		default:
			return name + ": " + g.pick("\t", "\x0b", "\x0c", "\x00", "\xa0", "\xc2\xa0", "\"", ",") + value
		}
	}
	switch g.rnd.IntN(4) {
	case 0:
		return strings.ToLower(name) + ":" + value
	case 1:
		return strings.ToUpper(name) + ":  " + value + " "
	}
	return name + ": " + value
}

// framing adds the fields that say how long the body is, and returns how long
// the body is that is sent: a length, or in chunks.
func (g *grammar) framing(add func(name, value string)) (length int, chunks bool) {
	length = g.rnd.IntN(11)
	if g.rnd.IntN(3) == 0 {
		length = len(inner) + g.rnd.IntN(3)
	}
	counted := fmt.Sprint(length)
	kind := g.rnd.IntN(3)
	if g.odd("CL") {
		switch g.rnd.IntN(8) {
		case 0:
			counted = fmt.Sprint(length + 1 + g.rnd.IntN(100)) // more than is sent
		case 1:
			counted = fmt.Sprint(g.rnd.IntN(length + 1)) // less
		case 2:
			counted = "000" + counted
		case 3:
			counted = g.within(counted)
		case 4:
			counted = counted + g.pick(", ", ",", " ", ";") + g.pick(counted, "0", "7", "")
		case 5:
			counted = g.pick("+", "-", "0x", "0", "'", "\"", "1e") + counted
		case 6:
			counted = g.pick("", "4294967301", "18446744073709551621", "99999999", "9223372036854775807", "-1", "zero", "５")
		default:
			add("Content-Length", counted)
			add("Content-Length", g.pick(counted, "0", "5", "0"+counted))
			return length, false
		}
		kind = 1
	}
	coding := g.pick("chunked", "chunked", "Chunked", "CHUNKED")
	if g.odd("TE") {
		kind = 2
		switch g.rnd.IntN(5) {
		case 0:
			coding = g.within(coding)
		case 1:
			add("Transfer-Encoding", g.pick("identity", "gzip", "chunked", "x", "", "chunked, x"))
		case 2:
			coding = g.pick("gzip, ", "identity, ", ",", "chunked, ", "x,", " ,") + coding
		case 3:
			coding += g.pick(", identity", ",", ";", ";q=0", ", chunked", " x", "\x00")
		default:
			coding = g.pick("identity", "gzip", "xchunked", "chunke", "", "chunked\x0b", "'chunked'", "chun\u212aed", "trailers", "compress")
		}
	}
	switch {
	case g.odd("CL+TE"):
		add("Content-Length", g.pick(counted, "0", "5", fmt.Sprint(5+len(inner))))
		add("Transfer-Encoding", coding)
		return length, g.rnd.IntN(2) == 0
	case kind == 0:
		if g.odd("CL") {
			return length, false // a body that nothing announces
		}
		return 0, false
	case kind == 1:
		add("Content-Length", counted)
		return length, false
	}
	add("Transfer-Encoding", coding)
	return 0, true
}

// chunked is a body in chunks, one of which holds text.
func (g *grammar) chunked(text string) string {
	var b strings.Builder
	texts := []string{"{1,2}", text, "0\r\n\r\n", "x"}
	for range g.rnd.IntN(4) {
		data := g.pick(texts...)
		b.WriteString(g.chunkSize(len(data)))
		b.WriteString(data)
		if g.odd("chunks") {
			b.WriteString(g.pick("", "\n", "\r", "XX", "\r\r\n", "\r\n\r\n", "\n\r", " \r\n", "z\r\n"))
		} else {
			b.WriteString("\r\n")
		}
	}
	if g.odd("chunks") {
		b.WriteString(g.pick("", "00\r\n", "-0\r\n", "+0\r\n", "0x0\r\n", "\r\n", "0;\r\n", "0 \r\n", "0\n", "0;a=\"\r\n\"\r\n", "0\r\r\n", " 0\r\n"))
	} else {
		b.WriteString("0\r\n")
	}
	if g.odd("trailers") {
		for range 1 + g.rnd.IntN(2) {
			b.WriteString(g.pick("A: b", "A:", "Content-Length: 5", "Transfer-Encoding: chunked", "Host: b", ": b", "A", "A : b", " A: b", "A: b\r\n c", "A: \x00", "A\x00: b", "A: b\rc", "A: b\nC: d"))
			b.WriteString(g.lineEnd())
		}
	}
	if g.odd("trailers") {
		b.WriteString(g.pick("", "\n", "\r", "\r\r\n", "\n\r\n", " \r\n"))
	} else {
		b.WriteString("\r\n")
	}
	return b.String()
}

// chunkSize is the line before a chunk of n bytes.
func (g *grammar) chunkSize(n int) string {
	size := fmt.Sprintf("%x", n)
	switch g.rnd.IntN(4) {
	case 0:
		size = strings.ToUpper(size)
	case 1:
		size = "0" + size
	}
	if g.odd("chunks") {
		switch g.rnd.IntN(8) {
		case 0:
			size = g.within(size)
		case 1:
			size = g.pick("+", "-", " ", "0x", "\t", "\"", "0o", ";", "\x00", "\r\n") + size
		case 2:
			size += g.pick(" ", "\t", "h", ".", ",", "_0", "\"", "\x0b", "\x00", "g")
		case 3:
			size = g.pick("1", "f", "ff", "80") + strings.Repeat("0", 15-g.rnd.IntN(2)) + size // wraps around
		case 4:
			size = strings.Repeat("0", 8+g.rnd.IntN(24)) + size
		case 5:
			size = fmt.Sprintf("%x", max(0, n+g.rnd.IntN(7)-3))
		case 6:
			size = fmt.Sprint(n)
		default:
			size = g.pick("", "g", "ffffffffffffffff", "7fffffffffffffff", "8000000000000000", "-1", "1e1", "0.5")
		}
	}
	if g.odd("chunk extensions") {
		size += g.pick(";", "; ", " ;", ";a", ";a=b", ";a=\"b\"", ";a=\"\r\n\"", ";a\nb", ";a\rb", ";\x00", " a=b", ";a=\"\\\"", ";\n", ";a=\xff", ";"+strings.Repeat("e", 100), ";"+strings.Repeat("e", 5000))
	}
	return size + g.lineEnd()
}

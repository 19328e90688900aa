package main

import (
	"fmt"
	"strings"
)

// The odd requests that are known, in one place: what the tests of heads and of
// bodies have, and the classes of request smuggling, in which two servers see the
// end of a request at different places (RFC 9112, sections 6, 7 and 11.2). They
// are sent to other servers, too (differential_test.go), cut everywhere
// (cuts_test.go), and where a fuzzer begins.

// oddity is an odd request, or several, with what follows.
type oddity struct {
	class string
	name  string
	text  string
	want  []int // the statuses of our answers to text and what follows it
}

// followers are sent behind every odd request: which of them are answered, and
// as what, shows where the server saw it end. The last ends the connection.
const followers = "GET /follower-1 HTTP/1.1\r\nHost: f\r\n\r\n" +
	"GET /follower-2 HTTP/1.1\r\nHost: f\r\n\r\n" +
	"GET /follower-3 HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n"

// inner looks like a request wherever it stands: in a body it must not be one.
const inner = "GET /inner HTTP/1.1\r\nHost: i\r\n\r\n"

// What the server answers when an odd request is as long as it seems, when it is
// refused, and when it is short, so that its body is taken for a request.
var (
	passes   = []int{200, 200, 200, 200}
	faulty   = []int{400}
	bodiless = []int{200, 400}
)

// oddRequests is all of them.
func oddRequests() (all []oddity) {
	for _, c := range refused {
		all = append(all, oddity{"head", c.name, c.head, []int{c.fault}})
	}
	for _, c := range accepted {
		want := passes
		if c.want.closes {
			want = []int{200}
		}
		all = append(all, oddity{"head", c.name, c.head + c.want.body(), want})
	}
	for _, c := range bodies {
		if c.length >= 0 {
			continue
		}
		want := passes
		if c.fault != 0 {
			want = []int{c.fault}
		}
		all = append(all, oddity{"chunks", c.name, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + c.text, want})
	}
	all = append(all, smuggled...)
	for _, c := range lengths {
		all = append(all, oddity{"CL", fmt.Sprintf("%q", c.field), post(c.field, "{1,2}"), c.want})
	}
	for _, c := range codings {
		all = append(all,
			oddity{"TE", fmt.Sprintf("%q", c.field), post(c.field, "5\r\n{1,2}\r\n0\r\n\r\n"), c.want},
			oddity{"CL+TE", fmt.Sprintf("%q after a length", c.field), post("Content-Length: 15\r\n"+c.field, "5\r\n{1,2}\r\n0\r\n\r\n"), c.both},
			oddity{"CL+TE", fmt.Sprintf("%q before a length", c.field), post(c.field+"\r\nContent-Length: 5", "0\r\n\r\n"), c.both},
			oddity{"TE.TE", fmt.Sprintf("%q before a sound one", c.field), post(c.field+"\r\nTransfer-Encoding: chunked", "5\r\n{1,2}\r\n0\r\n\r\n"), c.twice},
			oddity{"TE.TE", fmt.Sprintf("%q after a sound one", c.field), post("Transfer-Encoding: chunked\r\n"+c.field, "5\r\n{1,2}\r\n0\r\n\r\n"), c.twice},
		)
	}
	for _, field := range unsoundFields {
		all = append(all, oddity{"field", fmt.Sprintf("%q", field), post(field+"\r\nContent-Length: 5", "{1,2}"), faulty})
	}
	return all
}

// post is a request with a body.
func post(fields, body string) string {
	return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n\r\n" + body
}

var smuggled = []oddity{
	{"CL.TE", "a front that knows the length, with another request in what is left",
		post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked", 5+len(inner)), "0\r\n\r\n"+inner), faulty},
	{"CL.TE", "half a request in what is left",
		post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nG"), faulty},
	{"CL.TE", "the coding in HTTP/1.0",
		strings.Replace(post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked", 5+len(inner)), "0\r\n\r\n"+inner), "1.1", "1.0", 1), faulty},
	{"TE.CL", "a front that knows the coding, with another request in a chunk",
		post("Transfer-Encoding: chunked\r\nContent-Length: 4", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)), faulty},
	{"TE.CL", "a length of nothing", post("Content-Length: 0\r\nTransfer-Encoding: chunked", "5\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"CL.CL", "a front that knows the first length", post("Content-Length: 5\r\nContent-Length: 0", "{1,2}"), faulty},
	{"CL.CL", "a front that knows the second length", post("Content-Length: 0\r\nContent-Length: 5", "{1,2}"), faulty},
	{"CL.CL", "lengths that differ by zeros alone", post("Content-Length: 5\r\nContent-Length: 05", "{1,2}"), faulty},
	{"CL.CL", "three lengths, of which two agree", post("Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6", "{1,2}"), faulty},
	{"CL.CL", "lengths in a list", post("Content-Length: 5, 0", "{1,2}"), faulty},
	{"CL.CL", "an empty length after one", post("Content-Length: 5\r\nContent-Length:", "{1,2}"), faulty},
	{"CL.0", "a GET whose body is a request",
		fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "a HEAD whose body is a request",
		fmt.Sprintf("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "an OPTIONS whose body is a request",
		fmt.Sprintf("OPTIONS / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "a DELETE whose body is a request",
		fmt.Sprintf("DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "an upgrade whose body is a request",
		fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "a length that the Connection field names",
		fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "a length in HTTP/1.0",
		fmt.Sprintf("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), passes},
	{"CL.0", "an expectation, and the body at once",
		post(fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d", len(inner)), inner), passes},
	{"0.CL", "a POST without a length, which has no body", "POST / HTTP/1.1\r\nHost: a\r\n\r\n" + inner, []int{200, 200, 200, 200, 200}},
	{"0.CL", "a length under another name", post("Content_Length: 5", "{1,2}"), bodiless},
	{"0.CL", "a length under a longer name", post("X-Content-Length: 5", "{1,2}"), bodiless},
	{"0.CL", "a length in the value of another field", post("X: Content-Length: 5", "{1,2}"), bodiless},
	{"TE.0", "a GET in chunks whose data is a request",
		fmt.Sprintf("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), passes},
	{"TE.0", "an OPTIONS in chunks whose data is a request",
		fmt.Sprintf("OPTIONS / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), passes},
	{"TE.0", "a coding that the Connection field names",
		post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), passes},
	{"chunks", "an end that hides in an extension", post("Transfer-Encoding: chunked", "5;\n0\r\n\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "an extension that ends in a bare LF, with a request behind it",
		post("Transfer-Encoding: chunked", fmt.Sprintf("5;a\nxx\r\n%x\r\n0\r\n\r\n%s\r\n0\r\n\r\n", len(inner)+5, inner)), faulty},
	{"chunks", "a quoted CRLF in an extension", post("Transfer-Encoding: chunked", "5;a=\"\r\n0\"\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "data with two bytes too many for its end", post("Transfer-Encoding: chunked", "5\r\n{1,2}XX0\r\n\r\n"), faulty},
	{"chunks", "an end of data that is any two bytes", post("Transfer-Encoding: chunked", "5\r\n{1,2}\n\r0\r\n\r\n"), faulty},
	{"chunks", "a size that wraps around 64 bits", post("Transfer-Encoding: chunked", "10000000000000005\r\n{1,2}\r\n0\r\n\r\n"), []int{413}},
	{"chunks", "a size that wraps around 32 bits", post("Transfer-Encoding: chunked", "100000005\r\n{1,2}\r\n0\r\n\r\n"), []int{413}},
	{"chunks", "a negative size in 64 bits", post("Transfer-Encoding: chunked", "ffffffffffffffff\r\n{1,2}\r\n0\r\n\r\n"), []int{413}},
	{"chunks", "a size in octal", post("Transfer-Encoding: chunked", "0o5\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "a size with an underscore", post("Transfer-Encoding: chunked", "0_5\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "a size with a point", post("Transfer-Encoding: chunked", "5.\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "a size with a comma", post("Transfer-Encoding: chunked", "5,5\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "a size in quotes", post("Transfer-Encoding: chunked", "\"5\"\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "NUL after a size", post("Transfer-Encoding: chunked", "5\x00\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "a digit beyond ASCII", post("Transfer-Encoding: chunked", "\xef\xbc\x95\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "an extension without a semicolon", post("Transfer-Encoding: chunked", "5 a=b\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"chunks", "bare LFs only", post("Transfer-Encoding: chunked", "5\n{1,2}\n0\n\n"), faulty},
	{"chunks", "no empty line after the last chunk", post("Transfer-Encoding: chunked", "5\r\n{1,2}\r\n0\r\n"), faulty},
	{"chunks", "a last chunk of many zeros", post("Transfer-Encoding: chunked", "5\r\n{1,2}\r\n000000\r\n\r\n"), passes},
	{"chunks", "an empty line before the first size", post("Transfer-Encoding: chunked", "\r\n5\r\n{1,2}\r\n0\r\n\r\n"), faulty},
	{"trailers", "a length among them", post("Transfer-Encoding: chunked", "0\r\nContent-Length: 5\r\n\r\n"), passes},
	{"trailers", "a coding among them", post("Transfer-Encoding: chunked", "0\r\nTransfer-Encoding: chunked\r\n\r\n"), passes},
	{"trailers", "a Host among them", post("Transfer-Encoding: chunked", "0\r\nHost: b\r\n\r\n"), passes},
	{"trailers", "a request for a field", post("Transfer-Encoding: chunked", "0\r\n"+inner), faulty},
	{"trailers", "an end by a bare CR", post("Transfer-Encoding: chunked", "0\r\nA: b\r\n\r"), faulty},
	{"line ends", "an empty line of bare LFs, with a request behind it", "GET / HTTP/1.1\r\nHost: a\r\n\n" + inner, faulty},
	{"line ends", "CR LF LF", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\n{1,2}", faulty},
	{"line ends", "LF CR LF", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\n\r\n{1,2}", faulty},
	{"line ends", "a bare CR, and a length behind it", "POST / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 5\r\n\r\n{1,2}", faulty},
	{"line ends", "a bare LF, and a length behind it", "POST / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 5\r\n\r\n{1,2}", faulty},
	{"line ends", "CR CR LF for an empty line", "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n" + inner, faulty},
	{"line ends", "a vertical tab for a line's end", "POST / HTTP/1.1\r\nHost: a\r\nX: y\x0bContent-Length: 5\r\n\r\n{1,2}", faulty},
	{"line ends", "NEL and other ends of Unicode", "POST / HTTP/1.1\r\nHost: a\r\nX: y\xc2\x85Content-Length: 5\xe2\x80\xa8Z: z\r\n\r\n{1,2}", bodiless},
	{"line ends", "an empty line before the request", "\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{1,2}", passes},
	{"line ends", "an empty line after a body", post("Content-Length: 5", "{1,2}\r\n"), passes},
	{"line ends", "a bare LF before the request", "\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n{1,2}", faulty},
	{"line ends", "a bare LF after a body", post("Content-Length: 5", "{1,2}\n"), bodiless},
	{"line ends", "a space line in place of the empty one", "GET / HTTP/1.1\r\nHost: a\r\n \r\n" + inner, faulty},
	{"folded", "a coding on the next line", post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"), faulty},
	{"folded", "a length on the next line", post("Content-Length:\r\n 5", "{1,2}"), faulty},
	{"folded", "a length that goes on", post("Content-Length: 1\r\n 5", "{1,2}"), faulty},
	{"folded", "a length in a line that belongs to another", post("X: y\r\n Content-Length: 5", "{1,2}"), faulty},
	{"folded", "the first line of fields", "POST / HTTP/1.1\r\n Content-Length: 5\r\nHost: a\r\n\r\n{1,2}", faulty},
	{"target", "the Host of another server", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", passes},
	{"target", "a request in the target", "GET /\r\nHost:a\r\n\r\n" + inner, faulty},
	{"target", "a version inside of the target", "GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", faulty},
	{"version", "an upgrade to HTTP/2, which stays", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", passes},
	{"version", "HTTP/1.0 that does not stay", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", []int{200}},
	{"version", "chunks in HTTP/1.2", "POST / HTTP/1.2\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", passes},
}

// lengths are fields of a request with a body of five bytes.
var lengths = []struct {
	field string
	want  []int
}{
	{"Content-Length: 5", passes},
	{"content-length:5", passes},
	{"CONTENT-LENGTH: 5 ", passes},
	{"Content-Length:\t5\t", passes},
	{"Content-Length: 0005", passes},
	{"Content-Length: +5", faulty},
	{"Content-Length: -5", faulty},
	{"Content-Length: -0", faulty},
	{"Content-Length: 5,5", faulty},
	{"Content-Length: 5,", faulty},
	{"Content-Length: 5;", faulty},
	{"Content-Length: 5.0", faulty},
	{"Content-Length: 5e0", faulty},
	{"Content-Length: 0x5", faulty},
	{"Content-Length: 0o5", faulty},
	{"Content-Length: 0_5", faulty},
	{"Content-Length: 5 5", faulty},
	{"Content-Length: 5\t5", faulty},
	{"Content-Length: '5'", faulty},
	{"Content-Length: \"5\"", faulty},
	{"Content-Length: \xef\xbc\x95", faulty},
	{"Content-Length: \xc2\xa05", faulty},
	{"Content-Length: 5\x00", faulty},
	{"Content-Length: \x0b5", faulty},
	{"Content-Length: \x0c5", faulty},
	{"Content-Length: five", faulty},
	{"Content-Length", faulty},
	{"Content-Length : 5", faulty},
	{"Content-Length\t: 5", faulty},
	{" Content-Length: 5", faulty},
	{"Content-Length\x00: 5", faulty},
	{"\x00Content-Length: 5", faulty},
	{"Content-Length\xa0: 5", faulty},
	{"Content Length: 5", faulty},
	{"Content-Length:: 5", faulty},
	{"Content-Length; 5", faulty},
	{"\"Content-Length\": 5", faulty},
	{"Content-Length: 4294967301", []int{413}},
	{"Content-Length: 9223372036854775813", []int{413}},
	{"Content-Length: 18446744073709551621", []int{413}},
	{"Content-Length: 340282366920938463463374607431768211461", []int{413}},
}

// codings are fields of a request with a body in chunks: what comes of them
// alone, with a length, and with a sound one.
var codings = []struct {
	field             string
	want, both, twice []int
}{
	{"Transfer-Encoding: chunked", passes, faulty, faulty},
	{"transfer-encoding:chunked", passes, faulty, faulty},
	{"TRANSFER-ENCODING: CHUNKED", passes, faulty, faulty},
	{"Transfer-Encoding:\tchunked\t ", passes, faulty, faulty},
	{"Transfer-Encoding : chunked", faulty, faulty, faulty},
	{"Transfer-Encoding\t: chunked", faulty, faulty, faulty},
	{" Transfer-Encoding: chunked", faulty, faulty, faulty},
	{"Transfer-Encoding\x00: chunked", faulty, faulty, faulty},
	{"Transfer-Encoding\r: chunked", faulty, faulty, faulty},
	{"Transfer-Encoding\xa0: chunked", faulty, faulty, faulty},
	{"Transfer Encoding: chunked", faulty, faulty, faulty},
	{"Transfer-Encoding:: chunked", faulty, faulty, faulty},
	{"Transfer-Encoding; chunked", faulty, faulty, faulty},
	{"Transfer-Encoding", faulty, faulty, faulty},
	{"Transfer-Encoding: ", faulty, faulty, faulty},
	{"Transfer-Encoding: xchunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chunkedx", faulty, faulty, faulty},
	{"Transfer-Encoding: chunke", faulty, faulty, faulty},
	{"Transfer-Encoding: cow", faulty, faulty, faulty},
	{"Transfer-Encoding: x chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked x", faulty, faulty, faulty},
	{"Transfer-Encoding: \x0bchunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked\x0c", faulty, faulty, faulty},
	{"Transfer-Encoding: \x00chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: \xa0chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: \xc2\xa0chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: \xef\xbb\xbfchunked", faulty, faulty, faulty},
	{"Transfer-Encoding: \"chunked\"", faulty, faulty, faulty},
	{"Transfer-Encoding: 'chunked'", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked,", faulty, faulty, faulty},
	{"Transfer-Encoding: ,chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked, chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked, identity", faulty, faulty, faulty},
	{"Transfer-Encoding: identity, chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: gzip, chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: gzip", faulty, faulty, faulty},
	{"Transfer-Encoding: identity", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked;q=1", faulty, faulty, faulty},
	{"Transfer-Encoding: chunked;", faulty, faulty, faulty},
	{"Transfer-Encoding:\r\n chunked", faulty, faulty, faulty},
	{"Transfer-Encoding: chun\r\n ked", faulty, faulty, faulty},
	{"Transfer-Encoding: chun\u212aed", faulty, faulty, faulty},
	{"Transfer_Encoding: chunked", bodiless, passes, passes},
	{"X-Transfer-Encoding: chunked", bodiless, passes, passes},
	{"TE: chunked", bodiless, passes, passes},
	{"X: y\nTransfer-Encoding: chunked", faulty, faulty, faulty},
	{"X: y\rTransfer-Encoding: chunked", faulty, faulty, faulty},
	{"X: y\r\n\tTransfer-Encoding: chunked", faulty, faulty, faulty},
}

// unsoundFields have a place in no request.
var unsoundFields = []string{
	"X\x00: y", "X: \x00", "X: y\x01", "X: y\x1f", "X: y\x7f", "X: y\x08z", "X\x7f: y", "X\xff: y",
	": y", "X", "X y", "X y: z", "X : y", "X\t: y", " X: y", "\tX: y", "X: y\r\n z", "X: y\r\n\tz", "X: y\rz", "X: y\nZ: z",
	"X[]: y", "X{y}: z", "X@y: z", "X/y: z", "X\\y: z", "X=y: z", "X?: y", "X<y>: z", "\"X\": y", "X,y: z", "(X): y",
	"Host: b", "host: a", "Host : a", "Expect:\x00", "\x0bX: y", "X\x0b: y", "\xef\xbb\xbfX: y",
}

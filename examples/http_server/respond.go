package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"time"
)

// server is what the connections of one loop share: the loop runs one of them
// at a time, so there is one of each buffer, and no lock.
type server struct {
	route  func(*http.Request) *answer // the site's; a test may have its own
	limits limits

	head   bytes.Reader  // over the head that is being parsed
	reader *bufio.Reader // over head
	batch  []byte        // the answers of the connection that is being stepped

	date  []byte    // the Date field's line
	dated time.Time // when date was made
}

func newServer(site *site, limits limits) *server {
	s := &server{route: site.route, limits: limits, batch: make([]byte, 0, fullBatch)}
	s.reader = bufio.NewReaderSize(&s.head, maxHead) // so that it holds any head's longest line
	return s
}

// answer is a response, rendered as far as it is the same for everyone.
type answer struct {
	head    []byte // the status line and the fields but Date and Connection
	content []byte
}

// Content above sharedContent is sent from where it is: a write more costs less
// than a copy of that many bytes.
const sharedContent = 16 << 10

func newAnswer(status int, fields string, content []byte) *answer {
	head := fmt.Appendf(nil, "HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n", status, http.StatusText(status), fields, len(content))
	return &answer{head, content}
}

// newPlainAnswer is an answer whose text is its status.
func newPlainAnswer(status int, fields string) *answer {
	text := fmt.Appendf(nil, "%d %s\n", status, http.StatusText(status))
	return newAnswer(status, "Content-Type: text/plain; charset=utf-8\r\n"+fields, text)
}

var (
	notFound   = newPlainAnswer(http.StatusNotFound, "")
	notAllowed = newPlainAnswer(http.StatusMethodNotAllowed, "Allow: GET, HEAD\r\n")

	refusals = func() map[int]*answer {
		all := make(map[int]*answer)
		for _, status := range []int{
			http.StatusBadRequest,
			http.StatusRequestTimeout,
			http.StatusRequestEntityTooLarge,
			http.StatusExpectationFailed,
			http.StatusRequestHeaderFieldsTooLarge,
			http.StatusHTTPVersionNotSupported,
		} {
			all[status] = newPlainAnswer(status, "")
		}
		return all
	}()
)

// Connection fields, by what becomes of the connection. HTTP/1.1 stays open
// unless it is said otherwise, HTTP/1.0 the other way round.
const (
	stays       = ""
	staysForOld = "Connection: keep-alive\r\n"
	ends        = "Connection: close\r\n"
)

// answer appends the answer to a request that is whole to batch, and returns
// the content that is to follow it where that is long. The last answer of a
// connection says so.
func (s *server) answer(batch []byte, now time.Time, req *http.Request, last bool) (_, content []byte) {
	connection := stays
	switch {
	case last:
		connection = ends
	case !req.ProtoAtLeast(1, 1):
		connection = staysForOld
	}
	a := s.route(req)
	batch = s.appendHead(batch, a, now, connection)
	switch {
	case req.Method == http.MethodHead:
		return batch, nil
	case len(a.content) > sharedContent:
		return batch, a.content
	}
	return append(batch, a.content...), nil
}

// refusal appends the answer to a request with a fault to batch. req is nil
// when not even its head was understood.
func (s *server) refusal(batch []byte, fault int, req *http.Request) []byte {
	a := refusals[fault]
	if a == nil {
		panic(fmt.Sprintf("server.refusal: no answer for %d", fault))
	}
	batch = s.appendHead(batch, a, time.Now(), ends)
	if req != nil && req.Method == http.MethodHead {
		return batch
	}
	return append(batch, a.content...)
}

func (s *server) appendHead(batch []byte, a *answer, now time.Time, connection string) []byte {
	if now.Sub(s.dated) >= time.Second || s.date == nil {
		s.dated = now
		s.date = append(s.date[:0], "Date: "...)
		s.date = time.Now().UTC().AppendFormat(s.date, http.TimeFormat) // now may lag behind a clock that was set
		s.date = append(s.date, "\r\n"...)
	}
	batch = append(batch, a.head...)
	batch = append(batch, s.date...)
	batch = append(batch, connection...)
	return append(batch, "\r\n"...)
}

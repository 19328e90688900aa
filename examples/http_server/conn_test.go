package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

const (
	get     = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
	getLast = "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	hello   = "Hello, World!\n"
)

func TestConnAnswers(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range []struct {
		name   string
		ask    string // method, target
		status int
		kind   string
		body   string // contained
	}{
		{"the page", "GET /", 200, "text/html; charset=utf-8", "<title>"},
		{"the page by its file's name", "GET /index.html", 200, "text/html; charset=utf-8", "<title>"},
		{"text", "GET /hello", 200, "text/plain; charset=utf-8", hello},
		{"JSON", "GET /json", 200, "application/json", `{"message":"Hello, World!"}`},
		{"a static file", "GET /style.css", 200, "text/css; charset=utf-8", "body {"},
		{"a query is not part of the path", "GET /hello?x=/json", 200, "text/plain; charset=utf-8", hello},
		{"an absolute target", "GET http://example.com/hello", 200, "text/plain; charset=utf-8", hello},
		{"an absolute target without a path", "GET http://example.com", 200, "text/html; charset=utf-8", "<title>"},
		{"a path that isn't there", "GET /missing", 404, "text/plain; charset=utf-8", "404"},
		{"a directory has no listing", "GET /static/", 404, "text/plain; charset=utf-8", "404"},
		{"a path that would climb out", "GET /../../etc/passwd", 404, "text/plain; charset=utf-8", "404"},
		{"a path that would climb out, escaped", "GET /%2e%2e/%2e%2e/etc/passwd", 404, "text/plain; charset=utf-8", "404"},
		{"a path that would climb out, its slashes too", "GET /..%2f..%2fetc%2fpasswd", 404, "text/plain; charset=utf-8", "404"},
		{"a path of two slashes", "GET //hello", 404, "text/plain; charset=utf-8", "404"},
		{"another method", "POST /hello", 405, "text/plain; charset=utf-8", "405"},
		{"a method of one's own", "BREW /", 405, "text/plain; charset=utf-8", "405"},
		{"a method in lower case is another", "get /", 405, "text/plain; charset=utf-8", "405"},
		{"OPTIONS", "OPTIONS /", 405, "text/plain; charset=utf-8", "405"},
		{"OPTIONS of the server", "OPTIONS *", 405, "text/plain; charset=utf-8", "405"},
		{"a tunnel", "CONNECT example.com:443", 405, "text/plain; charset=utf-8", "405"},
		{"another method on a path that isn't there", "PUT /missing", 404, "text/plain; charset=utf-8", "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talkOut(c.ask+" HTTP/1.1\r\nHost: a\r\n\r\n"))
			require.Len(t, all, 1)
			got := all[0]
			assert.Equal(t, c.status, got.status)
			assert.Equal(t, c.kind, got.header.Get("Content-Type"))
			assert.Contains(t, got.body, c.body)
			allow := ""
			if c.status == 405 {
				allow = "GET, HEAD"
			}
			assert.Equal(t, allow, got.header.Get("Allow"))
		})
	}
}

func TestConnAnswersHEADWithoutContent(t *testing.T) {
	s := serve(t, siteOf(t, fstest.MapFS{"large.bin": {Data: make([]byte, 3*sharedContent)}}), quick)
	for _, path := range []string{"/", "/hello", "/json", "/missing", "/large.bin"} {
		t.Run(path, func(t *testing.T) {
			ask := path + " HTTP/1.1\r\nHost: a\r\n\r\n"
			all := parse(t, s.talkOut("GET "+ask+"HEAD "+ask+get), "GET", "HEAD", "GET")
			require.Len(t, all, 3)
			assert.Empty(t, all[1].body)
			assert.Equal(t, fmt.Sprint(len(all[0].body)), all[1].header.Get("Content-Length"))
			assert.Equal(t, all[0].status, all[1].status)
			all[0].header.Del("Date")
			all[1].header.Del("Date")
			assert.Equal(t, all[0].header, all[1].header)
		})
	}
}

// Whether the connection stays is checked with a second request, which is
// answered or not.
func TestConnStaysOrEndsAsAsked(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range []struct {
		name    string
		version string
		fields  string
		stays   bool
		says    string // the answer's Connection, but for close
	}{
		{"HTTP/1.1 stays", "1.1", "", true, ""},
		{"HTTP/1.1 ends when asked", "1.1", "Connection: close\r\n", false, ""},
		{"HTTP/1.1 ends when asked in a list", "1.1", "Connection: upgrade,CLOSE\r\n", false, ""},
		{"HTTP/1.0 ends", "1.0", "", false, ""},
		{"HTTP/1.0 stays when asked", "1.0", "Connection: keep-alive\r\n", true, "keep-alive"},
		{"HTTP/1.0 ends when asked both", "1.0", "Connection: keep-alive, close\r\n", false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := "GET /hello HTTP/" + c.version + "\r\nHost: a\r\n" + c.fields + "\r\n" + getLast
			all := parse(t, s.talk(text)) // closes of its own accord, in either case
			want := []int{200}
			if c.stays {
				want = []int{200, 200}
			}
			require.Equal(t, want, statuses(all))
			assert.Equal(t, !c.stays, all[0].closes)
			assert.Equal(t, c.says, strings.Join(all[0].header["Connection"], ","))
		})
	}
}

func TestConnRefusesAndCloses(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range refused {
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talk(get+c.head+get), "GET")
			require.Equal(t, []int{200, c.fault}, statuses(all), "and what follows is not answered")
			assert.True(t, all[1].closes)
			assert.NotEmpty(t, all[1].body)
		})
	}
}

func TestConnAcceptsWhatIsOddButSound(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range accepted {
		want := 2
		if c.want.closes {
			want = 1
		}
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talkOut(c.head+c.want.body()+get))
			require.Len(t, all, want)
			assert.Less(t, all[0].status, 406)
		})
	}
}

func TestConnRefusesBodies(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range bodies {
		if c.length >= 0 {
			continue
		}
		want := []int{405, 200}
		if c.fault != 0 {
			want = []int{c.fault}
		}
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talk("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+c.text+getLast))
			assert.Equal(t, want, statuses(all))
		})
	}
}

// Design, section 6: the original takes a POST body for a second request.
func TestConnDoesNotTakeABodyForARequest(t *testing.T) {
	s := serveBuiltIn(t)
	for _, c := range []struct{ name, text string }{
		{"a body of known length", fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(get), get)},
		{"a chunked body", fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(get), get)},
		{"the body of a GET", fmt.Sprintf("GET /missing HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(get), get)},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talkOut(c.text))
			require.Len(t, all, 1)
			assert.NotEqual(t, 200, all[0].status)
		})
	}
}

// Design, section 6: the original runs a request that was cut short.
func TestConnNeverRunsARequestThatWasCutShort(t *testing.T) {
	s := serveBuiltIn(t)
	for _, request := range []string{
		get,
		"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
		"GET /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
	} {
		for cut := 1; cut < len(request); cut++ {
			got := statuses(parse(t, s.talkOut(request[:cut])))
			require.Equal(t, []int{400}, got, "%q", request[:cut])
		}
		require.Equal(t, []int{200}, statuses(parse(t, s.talkOut(request))), "%q", request)
	}
}

// stream is requests of all kinds, one after the other, the last of which ends
// the connection.
var stream = strings.Join([]string{
	get,
	"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 33\r\n\r\nGET /json HTTP/1.1\r\nHost: a\r\n\r\nXY",
	"POST /json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: u\r\n\r\n",
	"\r\nHEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /missing HTTP/1.1\r\nHost: a\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET http://b/json HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /json HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
	getLast,
}, "")

var streamStatuses = []int{200, 405, 405, 200, 404, 405, 200, 200, 200}

func TestConnAnswersDoNotDependOnTheCuts(t *testing.T) {
	s := serveBuiltIn(t)
	want := s.talk(stream)
	require.Equal(t, streamStatuses, statuses(parse(t, want, "GET", "POST", "POST", "HEAD")))

	for cut := 1; cut < len(stream); cut++ {
		c := s.dial()
		tell(t, c, stream[:cut])
		s.settle()
		tell(t, c, stream[cut:])
		require.Equal(t, want, hear(t, c), "cut at %d", cut)
	}
	c := s.dial()
	for i := range len(stream) {
		tell(t, c, stream[i:i+1])
		s.settle()
	}
	assert.Equal(t, want, hear(t, c), "byte by byte")
}

func TestConnAnswersTogetherWhatCameTogether(t *testing.T) {
	s := serveBuiltIn(t)
	c := s.dial()
	const requests = mostAnswers / 2
	tell(t, c, strings.Repeat(get, requests))
	s.settle()
	one := len(s.talkOutDated(get))
	buf := make([]byte, 2*requests*one)
	n, err := c.Read(buf)
	require.NoError(t, err)
	assert.Equal(t, requests*one, n, "in one write, and so in one read")
}

// talkOutDated is talkOut with the date as it came.
func (s *service) talkOutDated(text string) string {
	c := s.dial()
	tell(s.t, c, text)
	require.NoError(s.t, c.CloseWrite())
	all, err := io.ReadAll(c)
	require.NoError(s.t, err)
	return string(all)
}

// More requests than fit a batch, a budget or the socket's buffers.
func TestConnAnswersAFloodInOrder(t *testing.T) {
	s := serveBuiltIn(t)
	const requests = 20_000
	c := s.dial()
	go func() {
		w := bufio.NewWriter(c)
		for i := range requests {
			_, _ = fmt.Fprintf(w, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\nHEAD /hello HTTP/1.1\r\nHost: a\r\n\r\n", i) // the reader finds a failure
		}
		_ = w.Flush()
		_ = c.CloseWrite()
	}()
	r := bufio.NewReader(c)
	for range requests {
		require.Equal(t, 404, read(t, r, "GET").status)
		require.Equal(t, 200, read(t, r, "HEAD").status)
	}
	_, err := r.Peek(1)
	assert.Equal(t, io.EOF, err)
}

// Answers that the socket does not take at once wait in memory of their own: the
// batch is the other connection's meanwhile.
func TestConnAnswersInOrderThroughSmallBuffers(t *testing.T) {
	s := serveBuiltIn(t)
	const requests = 4000
	clients := make([]*net.TCPConn, 2)
	for i := range clients {
		clients[i] = s.dial()
		require.NoError(t, clients[i].SetReadBuffer(64<<10)) // smaller ones make the kernel slow
		s.await(func() bool { return len(s.conns) == i+1 }, "no connection")
		s.onLoop(func() { require.NoError(t, s.conns[i].sock.SetWriteBuffer(16<<10)) })
	}
	paths := []string{"/hello", "/json"}
	for i, c := range clients {
		go func() { // the reader finds a failure
			_, _ = io.WriteString(c, strings.Repeat("GET "+paths[i]+" HTTP/1.1\r\nHost: a\r\n\r\n", requests))
			_ = c.CloseWrite()
		}()
	}
	blocked := func() bool {
		for _, c := range s.conns {
			if c.out.Pending() == 0 {
				return false
			}
		}
		return true
	}
	s.await(blocked, "not everybody's answers wait")
	readers := []*bufio.Reader{bufio.NewReader(clients[0]), bufio.NewReader(clients[1])}
	bodies := []string{hello, `{"message":"Hello, World!"}` + "\n"}
	for range requests {
		for i, r := range readers {
			got := read(t, r, http.MethodGet)
			require.Equal(t, 200, got.status)
			require.Equal(t, bodies[i], got.body)
		}
	}
	for _, r := range readers {
		_, err := r.Peek(1)
		assert.Equal(t, io.EOF, err)
	}
}

// counted is a connection that counts its steps.
type counted struct {
	*conn
	steps int
}

func (c *counted) Step(t *sm.Task) sm.Await {
	c.steps++
	return c.conn.Step(t)
}

func TestConnLetsTheOthersHaveTheirTurn(t *testing.T) {
	s := serveBuiltIn(t)
	const requests = 16 * mostAnswers
	var flood *counted
	s.onLoop(func() {
		ln, err := stepio.ListenTCP(s.loop, netip.MustParseAddrPort("127.0.0.1:0"), stepio.ListenOptions{})
		require.NoError(t, err)
		s.addr = ln.Addr().String()
		site, err := loadSite("")
		require.NoError(t, err)
		server := newServer(site, quick)
		task := s.loop.Spawn(stepio.NewServe(ln, func(sock *stepio.TCPConn) sm.Frame {
			flood = &counted{conn: &conn{sock: sock, server: server}}
			return flood
		}))
		t.Cleanup(func() { s.onLoop(task.Destroy) })
	})
	all := parse(t, s.talkOut(strings.Repeat(get, requests)))
	assert.Len(t, all, requests)
	s.onLoop(func() { assert.GreaterOrEqual(t, flood.steps, requests/mostAnswers) })
}

func TestConnSendsLargeContentInOrder(t *testing.T) {
	large := strings.Repeat("0123456789abcdef", 1<<16) // more than a socket's buffer at first
	s := serve(t, siteOf(t, fstest.MapFS{"large.txt": {Data: []byte(large)}}), quick)
	ask := "GET /large.txt HTTP/1.1\r\nHost: a\r\n\r\n"
	all := parse(t, s.talk(get+ask+get+ask+ask+getLast))
	require.Equal(t, []int{200, 200, 200, 200, 200, 200}, statuses(all))
	for i, want := range []string{hello, large, hello, large, large, hello} {
		require.True(t, want == all[i].body, "answer %d, of %d bytes", i, len(all[i].body))
	}
}

func TestConnContinuesWhenExpected(t *testing.T) {
	s := serveBuiltIn(t)
	const head = "POST /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"
	t.Run("a client that waits is told to go on, after the earlier answers", func(t *testing.T) {
		c := s.dial()
		tell(t, c, get+head+"Content-Length: 5\r\n\r\n")
		r := bufio.NewReader(c)
		assert.Equal(t, 200, read(t, r, "GET").status)
		told := make([]byte, len(goOn))
		_, err := io.ReadFull(r, told)
		require.NoError(t, err)
		assert.Equal(t, goOn, string(told))
		tell(t, c, "12345")
		assert.Equal(t, 405, read(t, r, "POST").status)
	})
	t.Run("a client that does not wait is not told", func(t *testing.T) {
		got := s.talk(head + "Content-Length: 5\r\n\r\n12345")
		assert.Equal(t, []int{405}, statuses(parse(t, got)))
	})
	t.Run("a body that would be too long is refused before it is sent", func(t *testing.T) {
		got := s.talk(head + "Content-Length: 99999999\r\n\r\n")
		assert.Equal(t, []int{413}, statuses(parse(t, got)))
	})
	t.Run("without a body there is nothing to go on with", func(t *testing.T) {
		got := s.talk(head + "\r\n")
		assert.Equal(t, []int{405}, statuses(parse(t, got)))
	})
	t.Run("an old client is not told", func(t *testing.T) {
		got := s.talk(strings.Replace(head, "1.1", "1.0", 1) + "Content-Length: 5\r\n\r\n12345")
		assert.Equal(t, []int{405}, statuses(parse(t, got)))
	})
}

// An error's answer reaches a client that is still sending: without the graceful
// close, a reset would take it away.
func TestConnRefusalReachesAClientThatIsStillSending(t *testing.T) {
	s := serveBuiltIn(t)
	c := s.dial()
	tell(t, c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
	s.settle()
	tell(t, c, strings.Repeat("x", 1<<20))
	s.settle()
	assert.Equal(t, []int{413}, statuses(parse(t, hear(t, c))))
}

func TestConnReadsPastABodyOfTheLongestKind(t *testing.T) {
	s := serveBuiltIn(t)
	c := s.dial()
	go func() {
		body := strings.Repeat("x", int(quick.bodyBytes))
		_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, getLast) // the reader finds a failure
	}()
	assert.Equal(t, []int{405, 200}, statuses(parse(t, hear(t, c))))
}

// An empty line after a body begins no request: a client that sends one and
// then finishes, or is silent, must not get an answer to a request that it never
// made, which it would take for that to its next one.
func TestConnTakesAnEmptyLineForNoRequest(t *testing.T) {
	const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
	t.Run("from a client that finishes", func(t *testing.T) {
		s := serveBuiltIn(t)
		assert.Empty(t, s.talkOut("\r\n"))
		assert.Equal(t, []int{405}, statuses(parse(t, s.talkOut(post+"\r\n"))))
	})
	t.Run("from a client that is silent", func(t *testing.T) {
		limits := quick
		limits.head, limits.idle = moment, 4*moment
		site, err := loadSite("")
		require.NoError(t, err)
		s := serve(t, site, limits)
		assert.Equal(t, []int{405}, statuses(parse(t, s.talk(post+"\r\n"))))
	})
	t.Run("but once before each request, however they come", func(t *testing.T) {
		s := serveBuiltIn(t)
		text := "\r\n" + get + "\r\n" + get + "\r\n\r\n" + get
		want := s.talk(text)
		assert.Equal(t, []int{200, 200, 400}, statuses(parse(t, want)))
		for cut := 1; cut < len(text); cut++ {
			c := s.dial()
			tell(t, c, text[:cut])
			s.settle()
			tell(t, c, text[cut:])
			require.Equal(t, want, hear(t, c), "cut at %d", cut)
		}
	})
}

const moment = 60 * time.Millisecond

// dribble sends a byte at a time, for ever, until the server has closed.
func (s *service) dribble(c io.Writer, text string, closed <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-closed:
			return
		default:
			_, _ = c.Write([]byte{text[i%len(text)]}) // fails once it has closed
			runtime.Gosched()
		}
	}
}

func TestConnCutsOffWhoTakesTooLong(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*limits)
		start   string
		dribble string // repeated; empty: silence
		want    []int
	}{
		{"a client that asks nothing", func(l *limits) { l.idle = moment }, "", "", []int{}},
		{"a client that asks nothing more", func(l *limits) { l.idle = moment }, get, "", []int{200}},
		{"a client that stops in a head", func(l *limits) { l.head = moment }, "GET /", "", []int{408}},
		{"a client that stops in a second head", func(l *limits) { l.head = moment }, get + "G", "", []int{200, 408}},
		{"a client that stops in a body", func(l *limits) { l.body = moment }, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", "", []int{408}},
		{"a client that dribbles a body", func(l *limits) { l.body = moment }, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n", []int{408}},
		{"a client that announces a body, and waits for ever", func(l *limits) { l.body = moment }, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "", []int{408}},
	} {
		t.Run(c.name, func(t *testing.T) {
			limits := quick
			c.change(&limits)
			site, err := loadSite("")
			require.NoError(t, err)
			s := serve(t, site, limits)
			began := time.Now()
			client := s.dial()
			tell(t, client, c.start)
			closed := make(chan struct{})
			if c.dribble != "" {
				go s.dribble(client, c.dribble, closed)
			}
			got, err := io.ReadAll(client)
			close(closed)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, time.Since(began), moment-time.Millisecond)
			assert.Equal(t, c.want, statuses(parse(t, string(got))))
			require.NoError(t, client.Close())
		})
	}
}

// A head that comes byte by byte has the time of one head, not of every byte. It
// is sent as slowly as the loop turns, so that its length does not end it.
func TestConnCutsOffWhoDribblesAHead(t *testing.T) {
	limits := quick
	limits.head = moment
	site, err := loadSite("")
	require.NoError(t, err)
	s := serve(t, site, limits)
	c := s.dial()
	got := make(chan string)
	go func() {
		all, _ := io.ReadAll(c) // what has come before an error tells
		got <- string(all)
	}()
	tell(t, c, "GET / HTTP/1.1\r\nHost: a\r\nX: ")
	tick := time.NewTicker(moment / 10)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _ = c.Write([]byte{'x'}) // fails once it has closed
			continue
		case all := <-got:
			assert.Equal(t, []int{408}, statuses(parse(t, all)))
		}
		break
	}
	require.NoError(t, c.Close())
}

func TestConnCutsOffAClientThatDoesNotRead(t *testing.T) {
	for _, path := range []string{"/large.bin", "/hello"} {
		t.Run(path, func(t *testing.T) {
			limits := quick
			limits.write = moment
			s := serve(t, siteOf(t, fstest.MapFS{"large.bin": {Data: make([]byte, 32<<20)}}), limits)
			c := s.dial()
			require.NoError(t, c.SetReadBuffer(4<<10))
			done := make(chan struct{})
			go func() {
				defer close(done)
				ask := strings.Repeat("GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n", 64)
				for {
					if _, err := io.WriteString(c, ask); err != nil {
						return // the server has given up
					}
				}
			}()
			<-done
			s.awaitTasks(1)
		})
	}
}

func TestConnIdleOwnsNoMemory(t *testing.T) {
	s := serveBuiltIn(t)
	client := s.dial()
	r := bufio.NewReader(client)
	for _, c := range []struct {
		text    string
		answers int
	}{
		{get, 1},
		{stream[:strings.Index(stream, "\r\nHEAD")], 3}, // two of them with bodies
	} {
		for third := range 3 { // in pieces, so that there was something to hold
			tell(t, client, c.text[third*len(c.text)/3:(third+1)*len(c.text)/3])
			s.settle()
		}
		for range c.answers {
			read(t, r, "GET")
		}
	}
	s.onLoop(func() {
		require.Len(t, s.conns, 1)
		idle := s.conns[0]
		assert.Equal(t, connIdle, idle.state)
		assert.Zero(t, idle.in)
		assert.Zero(t, idle.out.Pending())
		assert.Nil(t, idle.req)
		assert.Nil(t, idle.content)
	})
}

func TestConnSizes(t *testing.T) {
	assert.Equal(t, uintptr(256), unsafe.Sizeof(conn{}))
	assert.Equal(t, uintptr(72), unsafe.Sizeof(body{}))
}

func TestConnStatesHaveNames(t *testing.T) {
	for state := connIdle; state <= connLingering; state++ {
		assert.Regexp(t, "^conn[A-Z]", state.String())
	}
	for state := bodyDone; state <= bodyFailed; state++ {
		assert.Regexp(t, "^body[A-Z]", state.String())
	}
	assert.Panics(t, func() { (&conn{server: newServer(nil, quick), state: connLingering + 1}).Step(nil) })
	assert.Panics(t, func() { (&body{state: bodyFailed}).after('x') })
}

// What a client does to its connection is no concern of the others.
func TestConnThatIsResetEndsAloneInEveryState(t *testing.T) {
	s := serve(t, siteOf(t, fstest.MapFS{"large.bin": {Data: make([]byte, 32<<20)}}), quick)
	witness := s.dial()
	r := bufio.NewReader(witness)
	for _, c := range []struct{ name, text string }{
		{"idle", ""},
		{"in a head", "GET /he"},
		{"in a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"},
		{"while content is sent", "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"while it is closed", "nonsense\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := s.dial()
			tell(t, client, c.text)
			s.settle()
			require.NoError(t, client.SetLinger(0))
			require.NoError(t, client.Close())
			s.awaitTasks(2)
			tell(t, witness, get)
			assert.Equal(t, 200, read(t, r, http.MethodGet).status)
		})
	}
	require.NoError(t, witness.Close())
}

// A client that reads slowly, or not at all, has the rest of an answer wait where
// it costs nothing: the kernel's buffers grow to 4 MiB a connection, which all
// connections of the machine have to share.
func TestConnKeepsLittleInTheKernelForAClientThatDoesNotRead(t *testing.T) {
	const size = 32 << 20
	s := serve(t, siteOf(t, fstest.MapFS{"large.bin": {Data: make([]byte, size)}}), quick)
	client := s.dial()
	require.NoError(t, client.SetReadBuffer(4<<10))
	tell(t, client, "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n")
	s.await(func() bool {
		return len(s.conns) == 1 && s.conns[0].state == connContent && s.conns[0].out.Pending() > 0
	}, "nothing waits")
	s.settle()
	s.onLoop(func() {
		assert.LessOrEqual(t, size-s.conns[0].out.Pending(), 1<<20, "bytes in the kernel's buffers, those of the client included")
	})
	require.NoError(t, client.SetLinger(0))
	require.NoError(t, client.Close())
}

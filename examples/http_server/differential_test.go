package main

import (
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/testseed"
)

// The same odd requests to this server, to net/http and to nginx, twice: once
// where it answers by itself and drops the body, once where it reads the body and
// passes it on. Two servers that disagree on where a request ends are how requests
// are smuggled past the one to the other; so what any of them may read otherwise,
// this server has to refuse.
//
// A server shows where it sees a request end by what it answers next: the
// followers behind every odd request differ, and each answer says in a field,
// Seen, which method and target it is to, and what the body was where the server
// has kept it.

var inputs = flag.Int("inputs", 3000, "TestDifferential: how many random requests, besides those of the table")

// reply is one answer.
type reply struct {
	status int
	seen   string // the request, as the server saw it; empty: it does not say
	last   bool   // it says Connection: close
}

// refuses reports whether the reply is to something that is no request.
func (r reply) refuses() bool { return r.status >= 400 && r.seen == "" && r.last }

// rival is a server.
type rival struct {
	name          string
	network, addr string
	early         bool // it answers before it has read the body to its end
}

// talk sends text and reads until the server closes. A client that has finished
// says so; one that has not shows whether the server waits for more: then late.
func (v rival) talk(text string, finish bool, patience time.Duration) (replies []reply, raw string, late bool, err error) {
	c, err := net.Dial(v.network, v.addr)
	if err != nil {
		return nil, "", false, err
	}
	defer func() { _ = c.Close() }() // there is nothing more to send
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, "", false, err
	}
	// A server that has refused and closed resets who goes on sending.
	if _, err := io.WriteString(c, text); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		return nil, "", false, err
	}
	if finish {
		_ = c.(interface{ CloseWrite() error }).CloseWrite() // fails when it was reset
	}
	all, err := io.ReadAll(c)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		late = true
	case err != nil && !errors.Is(err, syscall.ECONNRESET):
		return nil, "", false, err
	}
	return repliesIn(string(all)), string(all), late, nil
}

var (
	answerStart = regexp.MustCompile(`^HTTP/1\.[01] (\d{3}) `)
	seenField   = regexp.MustCompile(`(?m)^Seen: (.*)\r$`)
	closeField  = regexp.MustCompile(`(?im)^Connection: close\r$`)
	stayField   = regexp.MustCompile(`(?im)^Connection: keep-alive\r$`)
	lengthField = regexp.MustCompile(`(?m)^Content-Length: (\d+)\r$`)
)

// repliesIn is the answers in text. Whether one to a HEAD has content is not to be
// known when it is not known what the server took for the method: the content is
// there unless the next answer is.
func repliesIn(text string) (all []reply) {
	for {
		start := answerStart.FindStringSubmatch(text)
		head, rest, found := strings.Cut(text, "\r\n\r\n")
		if start == nil || !found {
			return all
		}
		status, _ := strconv.Atoi(start[1]) // it is three digits
		head += "\r"
		if text = rest; status < 200 {
			continue
		}
		r := reply{status: status, last: closeField.MatchString(head) || head[7] == '0' && !stayField.MatchString(head)}
		if found := seenField.FindStringSubmatch(head); found != nil {
			r.seen = found[1]
		}
		all = append(all, r)
		if found := lengthField.FindStringSubmatch(head); found != nil && !answerStart.MatchString(text) {
			size, _ := strconv.Atoi(found[1])
			text = text[min(size, len(text)):]
		}
	}
}

// Statuses of net/http's side.
const cutShort = 499 // the body did not come to its end, or there is none

// seesAll answers what net/http, and what nginx passes on, has seen.
func seesAll(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.Header().Set("Connection", "close")
		w.WriteHeader(cutShort)
		return
	}
	w.Header().Set("Seen", fmt.Sprintf("%s %s %d %08x", r.Method, r.RequestURI, len(body), crc32.ChecksumIEEE(body)))
}

// startNetHTTP serves seesAll on a socket in dir.
func startNetHTTP(t *testing.T, dir string) rival {
	addr := filepath.Join(dir, "nethttp.sock")
	ln, err := net.Listen("unix", addr)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(seesAll), DisableGeneralOptionsHandler: true}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		assert.ErrorIs(t, <-ended, http.ErrServerClosed)
	})
	return rival{name: "net/http", network: "unix", addr: addr}
}

const nginxConfig = `
daemon off;
%s
worker_processes 1;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log crit;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	lingering_timeout 200ms;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	server {
		listen unix:%[2]s/return.sock;
		location / {
			add_header Seen "$request_method $request_uri";
			return 200 "";
		}
	}
	server {
		listen unix:%[2]s/proxying.sock;
		proxy_http_version 1.1;
		proxy_ignore_client_abort on;
		location / { proxy_pass http://unix:%[3]s; }
	}
}
`

// startNginx starts nginx in dir, with its defaults but for what it answers: by
// itself, and by passing on to backend.
func startNginx(t *testing.T, dir string, backend rival) []rival {
	path := tool(t, "nginx")
	user := ""
	if os.Getuid() == 0 {
		user = "user root;" // who else could not connect to the sockets
	}
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, nginxConfig, user, dir, backend.addr), 0o600))
	cmd := exec.Command(path, "-p", dir, "-c", config, "-e", filepath.Join(dir, "error.log"))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		assert.NoError(t, <-ended, out.String())
	})
	rivals := []rival{
		{name: "nginx", network: "unix", addr: filepath.Join(dir, "return.sock"), early: true},
		{name: "nginx, passing on", network: "unix", addr: filepath.Join(dir, "proxying.sock")},
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, v := range rivals {
		for until := time.Now().Add(patience); ; <-tick.C {
			if _, _, _, err := v.talk("", true, patience); err == nil {
				break
			}
			require.Empty(t, ended, "nginx has ended: %s", &out)
			require.True(t, time.Now().Before(until), "nginx does not listen")
		}
	}
	return rivals
}

// sighting is one request that a server has answered.
type sighting struct {
	what string // method and target; empty: not said
	size int    // of the body; -1: not said
	sum  string // of the body; empty: not said
}

func sightingOf(r reply) sighting {
	words := strings.Split(r.seen, " ")
	if len(words) < 2 {
		return sighting{size: -1}
	}
	// nginx does not say what stands before an absolute target's path.
	target := absolute.ReplaceAllString(words[1], "")
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	s := sighting{what: words[0] + " " + target, size: -1}
	if len(words) > 2 {
		s.size, _ = strconv.Atoi(words[2]) // it is a number
	}
	if len(words) > 3 {
		s.sum = words[3]
	}
	return s
}

var absolute = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://[^/?]*`)

// same reports whether two servers can have seen the same request.
func (s sighting) same(o sighting) bool {
	return (s.what == "" || o.what == "" || s.what == o.what) &&
		(s.size < 0 || o.size < 0 || s.size == o.size) &&
		(s.sum == "" || o.sum == "" || s.sum == o.sum)
}

// view is what one server makes of one input.
type view struct {
	rival
	text    string
	replies []reply
	raw     string
	seen    []sighting
	waits   func() (bool, error) // whether, when it stopped, it was waiting for more
}

func (v rival) look(text string) (*view, error) {
	replies, raw, late, err := v.talk(text, true, patience)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.name, err)
	}
	if late {
		return nil, fmt.Errorf("%s: does not close the connection, after %q", v.name, raw)
	}
	w := &view{rival: v, text: text, replies: replies, raw: raw}
	for _, r := range replies {
		if r.refuses() || r.status == cutShort {
			break
		}
		w.seen = append(w.seen, sightingOf(r))
	}
	w.waits = sync.OnceValues(w.askWhetherItWaits)
	return w, nil
}

// askWhetherItWaits sends the input again, and does not say that it is all.
func (w *view) askWhetherItWaits() (bool, error) {
	_, _, late, err := w.talk(w.text, false, 2*time.Second)
	return late, err
}

// over reports whether the server closed after n requests because it had said so:
// then it has no opinion on what follows.
func (w *view) over(n int) bool { return n > 0 && n == len(w.seen) && w.replies[n-1].last }

// disagree reports whether two servers have accepted the same bytes as different
// requests, and how: one's request is not the other's, or one waits for the rest
// of what is a whole request to the other.
func disagree(a, b *view) (how string, err error) {
	for i := range max(len(a.seen), len(b.seen)) {
		if a.over(i) || b.over(i) {
			return "", nil
		}
		if i < len(a.seen) && i < len(b.seen) {
			if !a.seen[i].same(b.seen[i]) {
				return fmt.Sprintf("request %d is %v to %s and %v to %s", i, a.seen[i], a.name, b.seen[i], b.name), nil
			}
			continue
		}
		shorter, longer := a, b
		if len(a.seen) > len(b.seen) {
			shorter, longer = b, a
		}
		waits, err := shorter.waits()
		if err != nil || !waits {
			return "", err
		}
		if longer.early && i == len(longer.seen)-1 {
			return "", nil // its last answer does not say that the request has ended
		}
		return fmt.Sprintf("request %d is %v to %s, and %s waits for more of it", i, longer.seen[i], longer.name, shorter.name), nil
	}
	return "", nil
}

// tally is what came of the inputs of one class.
type tally struct {
	inputs   int
	accepted []int // by each server, ours first
	apart    int   // two of the others disagree
	stricter int   // we refuse what all the others accept alike
	faults   int   // we accept, and another sees another boundary
}

func TestDifferentialNobodySeesAnotherBoundaryInWhatWeAccept(t *testing.T) {
	t.Parallel() // most of the time it waits
	dir := t.TempDir()
	s := serveBuiltIn(t)
	s.onLoop(func() { s.server.route = answerSeen })
	rivals := []rival{{name: "http_server", network: "tcp", addr: s.addr}, startNetHTTP(t, dir)}
	if _, err := exec.LookPath("nginx"); err == nil {
		rivals = append(rivals, startNginx(t, dir, rivals[1])...)
	} else {
		t.Logf("NOT TESTED AGAINST NGINX, which is not installed: apt-get install nginx-light")
	}

	rnd := testseed.Rand(t)
	table := oddRequests()
	known := len(table)
	for range *inputs {
		table = append(table, randomOddity(rnd))
	}
	type finding struct {
		oddity
		views  []*view
		apart  []string // how the others disagree
		faults []string // how another disagrees with us
		err    error
	}
	examine := func(o oddity) (f finding) {
		f.oddity = o
		text := o.text + followers
		for _, v := range rivals {
			w, err := v.look(text)
			if err != nil {
				f.err = err
				return f
			}
			f.views = append(f.views, w)
		}
		// Of our own server a kernel in the test's hands knows it for sure; and
		// it shows that it is the same over real sockets.
		own := play(t, script{pieces: []string{text}})[0]
		if real := strings.ReplaceAll(undated(f.views[0].raw), goOn, ""); real != own.out {
			f.err = fmt.Errorf("over sockets the answer is %q, otherwise %q", real, own.out)
			return f
		}
		f.views[0].waits = func() (bool, error) { return own.waited, nil }
		f.faults = append(f.faults, laxly(text, own.seen)...)
		for i, a := range f.views {
			for _, b := range f.views[i+1:] {
				how, err := disagree(a, b)
				switch {
				case err != nil:
					f.err = err
				case how != "" && i == 0:
					f.faults = append(f.faults, how)
				case how != "":
					f.apart = append(f.apart, how)
				}
			}
		}
		return f
	}

	findings := make([]finding, len(table))
	next := make(chan int)
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for i := range next {
				findings[i] = examine(table[i])
			}
		})
	}
	for i := range table {
		next <- i
	}
	close(next)
	workers.Wait()

	classes := make(map[string]*tally)
	for i, f := range findings {
		require.NoError(t, f.err, "%s: %s: %q", f.class, f.name, f.text)
		c := classes[f.class]
		if c == nil {
			c = &tally{accepted: make([]int, len(rivals))}
			classes[f.class] = c
		}
		c.inputs++
		others := 0
		for j, v := range f.views {
			if len(v.seen) > 0 {
				c.accepted[j]++
				others += min(j, 1)
			}
		}
		if len(f.apart) > 0 {
			c.apart++
			t.Logf("the others disagree, we refuse: %.300q: %s", f.text, f.apart[0])
		}
		if len(f.views[0].seen) == 0 && others == len(rivals)-1 && len(f.apart) == 0 {
			c.stricter++
		}
		if len(f.faults) > 0 {
			c.faults++
			t.Errorf("%s: %s: %q\n%s", f.class, f.name, f.text, strings.Join(f.faults, "\n"))
		}
		if i < known {
			statuses := []int{}
			for _, r := range f.views[0].replies {
				statuses = append(statuses, r.status)
			}
			assert.Equal(t, f.want, statuses, "%s: %s: %q", f.class, f.name, f.text)
		}
	}
	report(t, rivals, known, classes)
}

// report prints the figures.
func report(t *testing.T, rivals []rival, known int, classes map[string]*tally) {
	names := []string{}
	for _, v := range rivals {
		names = append(names, v.name)
	}
	t.Logf("%d inputs of the table, %d random ones; first request accepted by %s", known, *inputs, strings.Join(names, " / "))
	order := []string{}
	total := &tally{accepted: make([]int, len(rivals))}
	for class, c := range classes {
		order = append(order, class)
		total.inputs += c.inputs
		total.apart += c.apart
		total.stricter += c.stricter
		total.faults += c.faults
		for i, n := range c.accepted {
			total.accepted[i] += n
		}
	}
	slices.Sort(order)
	classes["all"] = total
	for _, class := range append(order, "all") {
		c := classes[class]
		t.Logf("%-22s %5d inputs, accepted %v; others disagree on a boundary %4d; only we refuse %4d; WE ACCEPT, ANOTHER BOUNDARY %d",
			class, c.inputs, c.accepted, c.apart, c.stricter, c.faults)
	}
	assert.Zero(t, total.faults)
	assert.NotZero(t, total.accepted[0], "what is refused always shows nothing")
}

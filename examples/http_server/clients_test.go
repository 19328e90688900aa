package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptrace"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The server against clients that others have written.

func TestNetHTTPClient(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	s := serve(t, siteOf(t, fstest.MapFS{"large.txt": {Data: large}}), quick)
	transport := &http.Transport{ExpectContinueTimeout: patience}
	client := &http.Client{Transport: transport, Timeout: patience}
	t.Cleanup(transport.CloseIdleConnections) // before the server's cleanup
	connections := 0
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			connections++
		}
	}}
	continued := false
	trace.Got100Continue = func() { continued = true }
	for _, c := range []struct {
		name, method, path string
		fields             http.Header
		body               io.Reader
		status             int
		want               string
	}{
		{"a GET", "GET", "/hello", nil, nil, 200, hello},
		{"a HEAD", "HEAD", "/hello", nil, nil, 200, ""},
		{"a POST with a body", "POST", "/hello", nil, strings.NewReader("a body"), 405, "405 Method Not Allowed\n"},
		{"a POST in chunks", "POST", "/hello", nil, io.MultiReader(strings.NewReader("a body"), bytes.NewReader(large)), 405, "405 Method Not Allowed\n"},
		{"a POST that waits", "POST", "/hello", http.Header{"Expect": {"100-continue"}}, strings.NewReader("a body"), 405, "405 Method Not Allowed\n"},
		{"a large file", "GET", "/large.txt", nil, nil, 200, string(large)},
		{"JSON", "GET", "/json", nil, nil, 200, `{"message":"Hello, World!"}` + "\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := httptrace.WithClientTrace(t.Context(), trace)
			req, err := http.NewRequestWithContext(ctx, c.method, "http://"+s.addr+c.path, c.body)
			require.NoError(t, err)
			for name, values := range c.fields {
				req.Header[name] = values
			}
			resp, err := client.Do(req)
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			assert.Equal(t, c.status, resp.StatusCode)
			assert.True(t, c.want == string(body), "%d bytes", len(body))
			date, err := http.ParseTime(resp.Header.Get("Date"))
			require.NoError(t, err)
			assert.WithinDuration(t, time.Now(), date, patience)
		})
	}
	assert.Equal(t, 1, connections, "one connection for all")
	assert.True(t, continued)
}

// tool is the path of a program that a test needs.
func tool(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %s is not installed: apt-get install %s", name, name)
	}
	return path
}

func TestCurl(t *testing.T) {
	curl := tool(t, "curl")
	large := strings.Repeat("0123456789abcdef", 1<<16)
	s := serve(t, siteOf(t, fstest.MapFS{"large.txt": {Data: []byte(large)}}), quick)
	const code = "-w%{http_code} %{http_version} %{num_connects}"
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a GET", []string{"/hello"}, hello + "200 1.1 1"},
		{"two GETs on one connection", []string{"/hello", "/hello"}, hello + "200 1.1 1" + hello + "200 1.1 0"},
		{"HTTP/1.0", []string{"--http1.0", "/hello"}, hello + "200 1.1 1"},
		{"a POST", []string{"-d", "x=y", "/hello"}, "405 Method Not Allowed\n405 1.1 1"},
		{"a POST in chunks", []string{"-H", "Transfer-Encoding: chunked", "-d", "x=y", "/hello"}, "405 Method Not Allowed\n405 1.1 1"},
		{"a POST that waits", []string{"-H", "Expect: 100-continue", "-d", "x=y", "/hello"}, "405 Method Not Allowed\n405 1.1 1"},
		{"a path as it is", []string{"--path-as-is", "/../../etc/passwd"}, "404 Not Found\n404 1.1 1"},
		{"a large file", []string{"/large.txt"}, large + "200 1.1 1"},
		{"a HEAD", []string{"-I", "-o", "/dev/null", "/large.txt"}, "200 1.1 1"},
		{"a tunnel", []string{"-X", "CONNECT", "--request-target", "a:443", "/"}, "405 Method Not Allowed\n405 1.1 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"-sS", "--noproxy", "*", "--max-time", "10", code}
			for _, arg := range c.args {
				if strings.HasPrefix(arg, "/") && arg != "/dev/null" {
					arg = "http://" + s.addr + arg
				}
				args = append(args, arg)
			}
			out, err := exec.CommandContext(t.Context(), curl, args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.True(t, c.want == string(out), "got %.200q", out)
		})
	}
}

func TestWrk(t *testing.T) {
	wrk := tool(t, "wrk")
	s := serveBuiltIn(t)
	args := []string{"-c", "500", "-t", "2", "-d", "2s", "http://" + s.addr + "/hello"}
	out, err := exec.CommandContext(t.Context(), wrk, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Logf("%s", out)
	assert.NotContains(t, string(out), "Socket errors")
	assert.NotContains(t, string(out), "Non-2xx")
	found := regexp.MustCompile(`(\d+) requests in`).FindSubmatch(out)
	require.NotNil(t, found)
	requests, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, requests, 500)
}

//go:build linux || darwin

package stepio_test

import (
	"errors"
	"fmt"
	"go/build"
	"go/scanner"
	"go/token"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/sm"
)

// The Go of docs/porting.md. It stands in the porting_*_test.go files, each
// block between "// region: NAME" and "// endregion", and runs on a loop there;
// the tests in this file hold the guide to it.

// constructs are what the original offers. Each has to be named in a heading of
// the guide, over C++ and Go.
var constructs = []string{
	"Task<T>", "the coroutine",
	"lazily started", "uniquely owned", "move-only",
	"destroying a Task destroys the coroutine",
	"co_await task", "result or exception propagates",
	"co_return v", "throw e",
	"EventLoop::spawn",
	"post(fn)",
	"run()", "stop()",
	"readable(fd)", "writable(fd)", "readable_et(fd)", "writable_et(fd)",
	"remove(fd)",
	"N loops", "next()", "stop()/join()",
	"co_await pool.submit(loop, fn)",
	"listen(port, backlog, reuse_port)",
	"async_accept_fd", "async_accept", "async_accept_et",
	"async_read", "async_read_et",
	"async_write",
	"destructor closes the fd and deregisters it",
	"bind(port, reuse_port)", "async_recv_from", "async_recv_from_et", "async_send_to",
	"immutable IPv4 endpoint", "from text", "from a raw sockaddr_in",
	"tcp_echo_server", "tcp_echo_server_et", "udp_echo_server", "udp_echo_server_et",
	"proxy_server", "http_server",
}

func TestPortingGuideHasEveryRow(t *testing.T) {
	rows := sections(readText(t, "docs/porting.md"))
	for _, construct := range constructs {
		named := regexp.MustCompile(`(^|[^\w])` + regexp.QuoteMeta(construct) + `($|[^\w])`)
		found := false
		for heading, text := range rows {
			if named.MatchString(heading) {
				found = true
				assert.Contains(t, text, "```cpp\n", "%s: no C++", heading)
				assert.Contains(t, text, "```go\n", "%s: no Go", heading)
			}
		}
		assert.True(t, found, "no heading names %s", construct)
	}
}

// sections are the texts of the guide's rows by their headings, without the
// marks of code.
func sections(guide string) map[string]string {
	rows := make(map[string]string)
	for _, part := range strings.Split(guide, "\n### ")[1:] {
		heading, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		rows[strings.ReplaceAll(heading, "`", "")] = text
	}
	return rows
}

func TestPortingGuideIsCompiled(t *testing.T) {
	compiled := goFiles(t, isCompiled)
	for _, doc := range []string{"docs/porting.md", "README.md"} {
		if _, err := os.Stat(doc); errors.Is(err, fs.ErrNotExist) && doc == "README.md" {
			continue
		}
		for _, block := range goBlocks(readText(t, doc)) {
			code := unindented(block.code)
			require.NotEmpty(t, strings.TrimSpace(code), "%s:%d: an empty block", doc, block.line)
			found := false
			for _, file := range compiled {
				found = found || strings.Contains(file, "\n"+code+"\n")
			}
			assert.True(t, found, "%s:%d: this Go is in no file that is compiled:\n%s", doc, block.line, block.code)
		}
	}
}

// The guide names the tests that hold what it says.
func TestPortingGuideNamesTestsThatExist(t *testing.T) {
	declared := make(map[string]bool)
	for _, file := range goFiles(t, func(string) bool { return true }) { // some are for one system
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(file, -1) {
			declared[m[1]] = true
		}
	}
	names := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(readText(t, "docs/porting.md"), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		assert.True(t, declared[name[1]], "no test is called %s", name[1])
	}
}

// A region that the guide does not show is one that it has lost.
func TestPortingRegionsAreInTheGuide(t *testing.T) {
	guide := make(map[string]bool)
	for _, block := range goBlocks(readText(t, "docs/porting.md")) {
		guide[unindented(block.code)] = true
	}
	files, err := filepath.Glob("porting_*_test.go")
	require.NoError(t, err)
	region := regexp.MustCompile(`(?ms)^[ \t]*// region: ([^\n]+)\n(.*?)\n[ \t]*// endregion$`)
	for _, file := range files {
		for _, m := range region.FindAllStringSubmatch(readText(t, file), -1) {
			assert.True(t, guide[unindented(strings.TrimSpace(m[2]))], "%s: region %q is not in the guide", file, m[1])
		}
	}
}

func readText(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.FromSlash(name))
	require.NoError(t, err)
	return string(text)
}

type goBlock struct {
	line int
	code string
}

// goBlocks are the ```go blocks of a markdown text.
func goBlocks(markdown string) (blocks []goBlock) {
	fence := regexp.MustCompile("(?ms)^[ \t]*```go[ \t]*\n(.*?)\n[ \t]*```[ \t]*$")
	for _, m := range fence.FindAllStringSubmatchIndex(markdown, -1) {
		blocks = append(blocks, goBlock{1 + strings.Count(markdown[:m[2]], "\n"), markdown[m[2]:m[3]]})
	}
	return blocks
}

// isCompiled reports whether a Go file belongs to a build for this system.
func isCompiled(path string) bool {
	match, err := build.Default.MatchFile(filepath.Split(path))
	return err == nil && match
}

// goFiles are the Go files of the repository that are wanted, unindented,
// without what is no code though it may look like it.
func goFiles(t *testing.T, wanted func(path string) bool) (files []string) {
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody's temporary file
		}
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_")
		switch {
		case d.IsDir() && path != "." && (hidden || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go" || hidden || !wanted(path):
			return nil
		}
		source, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // and again
		}
		files = append(files, "\n"+unindented(string(onlyCode(source)))+"\n")
		return err
	}))
	return files
}

// onlyCode blanks the comments and strings of source that have several lines.
func onlyCode(source []byte) []byte {
	code := append([]byte(nil), source...)
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(source))
	s.Init(file, source, nil, scanner.ScanComments)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return code
		}
		if strings.Contains(text, "\n") && (tok == token.COMMENT || tok == token.STRING) {
			for i := range text {
				if at := file.Offset(pos) + i; code[at] != '\n' {
					code[at] = ' '
				}
			}
		}
	}
}

// unindented is text without the white space around its lines.
func unindented(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

// longest bounds everything that a test waits for.
const longest = 10 * time.Second

// guide is a loop in check mode that runs on a goroutine of its own, from start
// to the end of the test.
type guide struct {
	*stepio.Loop
	t       *testing.T
	conns   []*stepio.TCPConn
	stopped chan error // of Run; nil before start

	mu      sync.Mutex
	reports []error
}

func newGuide(t *testing.T, options ...stepio.LoopOption) *guide {
	g := &guide{t: t}
	options = append([]stepio.LoopOption{stepio.WithChecks(), stepio.WithReport(g.report)}, options...)
	loop, err := stepio.NewLoop(options...)
	require.NoError(t, err)
	g.Loop = loop
	t.Cleanup(g.end)
	return g
}

func (g *guide) report(task *sm.Task, err error) {
	if task != nil {
		err = fmt.Errorf("%s: %w", task.Chain(), err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reports = append(g.reports, err)
}

// reported takes what was reported since the last call.
func (g *guide) reported() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := errors.Join(g.reports...)
	g.reports = nil
	return err
}

func (g *guide) start() {
	g.stopped = make(chan error, 1)
	go func() { g.stopped <- g.Run() }()
}

// on runs fn on the loop and waits for it.
func (g *guide) on(fn func()) {
	if g.stopped == nil {
		fn()
		return
	}
	done := make(chan struct{})
	require.NoError(g.t, g.Post(func() {
		defer close(done)
		fn()
	}))
	<-done
}

func (g *guide) end() {
	g.on(func() {
		for _, c := range g.conns {
			assert.NoError(g.t, c.Close())
		}
	})
	if g.stopped != nil {
		g.Stop()
		assert.NoError(g.t, <-g.stopped)
	}
	assert.NoError(g.t, g.Close())
	assert.NoError(g.t, g.reported(), "not expected: a report")
}

// pair is a connection of the loop and its peer. Both are closed when the test
// ends, at the latest. Call it before start.
func (g *guide) pair() (*stepio.TCPConn, *net.TCPConn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(g.t, err)
	defer func() { assert.NoError(g.t, ln.Close()) }()
	peer := dial(g.t, ln.Addr().String())
	near, err := ln.Accept()
	require.NoError(g.t, err)
	conn, err := stepio.Adopt(g.Loop, near)
	require.NoError(g.t, err)
	g.conns = append(g.conns, conn)
	return conn, peer
}

// dial is a connection to addr whose operations take no longer than longest.
func dial(t *testing.T, addr string) *net.TCPConn {
	conn, err := net.DialTimeout("tcp", addr, longest)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // the test may have closed it
	require.NoError(t, conn.SetDeadline(time.Now().Add(longest)))
	return conn.(*net.TCPConn)
}

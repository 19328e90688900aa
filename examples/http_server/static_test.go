package main

import (
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// siteOf is what is built in, and files.
func siteOf(t testing.TB, files fs.FS) *site {
	s, err := loadSite("")
	require.NoError(t, err)
	require.NoError(t, s.add(files))
	return s
}

func TestSiteServesTheFilesOfADirectory(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret.txt")
	for name, content := range map[string]string{
		filepath.Join(dir, "index.html"):         "<p>mine",
		filepath.Join(dir, "a b.txt"):            "spaced",
		filepath.Join(dir, "sub", "index.html"):  "<p>sub",
		filepath.Join(dir, "sub", "data.json"):   "{}",
		filepath.Join(dir, "sub", "picture"):     "\x89PNG\r\n\x1a\n",
		filepath.Join(dir, "other", "empty.css"): "",
		filepath.Join(dir, "hello"):              "not this one",
		outside:                                  "secret",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o700))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "leak.txt")))
	require.NoError(t, os.Symlink("sub/data.json", filepath.Join(dir, "link.json")))
	site, err := loadSite(dir)
	require.NoError(t, err)
	s := serve(t, site, quick)
	for _, c := range []struct {
		name, target string
		status       int
		kind, body   string
	}{
		{"its index is the page", "/", 200, "text/html; charset=utf-8", "<p>mine"},
		{"what is not there is built in", "/icon.svg", 200, "image/svg+xml", ""},
		{"a name with a space", "/a%20b.txt", 200, "text/plain; charset=utf-8", "spaced"},
		{"a file in a directory", "/sub/data.json", 200, "application/json", "{}"},
		{"a directory's index is its page", "/sub/", 200, "text/html; charset=utf-8", "<p>sub"},
		{"a file without an extension, by its content", "/sub/picture", 200, "image/png", "\x89PNG\r\n\x1a\n"},
		{"an empty file", "/other/empty.css", 200, "text/css; charset=utf-8", ""},
		{"a directory without an index", "/other/", 404, "text/plain; charset=utf-8", "404 Not Found\n"},
		{"a link inside", "/link.json", 200, "application/json", "{}"},
		{"a link that leads out", "/leak.txt", 404, "text/plain; charset=utf-8", "404 Not Found\n"},
		{"a path through a directory and back", "/sub/../a%20b.txt", 404, "text/plain; charset=utf-8", "404 Not Found\n"},
		{"what the server says itself can't be replaced", "/hello", 200, "text/plain; charset=utf-8", hello},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := parse(t, s.talkOut("GET "+c.target+" HTTP/1.1\r\nHost: a\r\n\r\n"))
			require.Len(t, all, 1)
			assert.Equal(t, c.status, all[0].status)
			assert.Equal(t, c.kind, all[0].header.Get("Content-Type"))
			if c.body != "" || c.target != "/icon.svg" {
				assert.Equal(t, c.body, all[0].body)
			}
		})
	}
}

func TestSiteThatIsTooLargeIsRefused(t *testing.T) {
	s := &site{pages: make(map[string]*answer), size: maxSite - 1}
	assert.NoError(t, s.add(fstest.MapFS{"small": {Data: []byte("x")}}))
	assert.ErrorContains(t, s.add(fstest.MapFS{"more": {Data: []byte("x")}}), "more than 256 MiB")
}

func TestAnswerIsNotRenderedAgain(t *testing.T) {
	site, err := loadSite("")
	require.NoError(t, err)
	s := newServer(site, quick)
	req, fault := s.parse([]byte(get))
	require.Zero(t, fault)
	now := s.dated.Add(1)
	s.answer(s.batch, now, req, false) // makes the date
	assert.Zero(t, testing.AllocsPerRun(100, func() { s.answer(s.batch, now, req, false) }))
	assert.Equal(t, http.MethodGet, req.Method)
}

package main

import (
	"embed"
	"fmt"
	"io/fs"
	"log"
	"mime"
	"net/http"
	"os"
	"path"
	"strings"
)

// The files that are built in: what a newcomer sees.
//
//go:embed static
var builtIn embed.FS

// maxSite is how many bytes of files are kept in memory.
const maxSite = 256 << 20

// site is every path that has an answer. It is complete before the first loop
// runs, and read by all of them: a request opens no file, so it can neither
// block a loop nor leave the directory.
type site struct {
	pages map[string]*answer
	size  int // of the contents, in bytes
}

// loadSite makes the site of the built-in files and, in front of them, those of
// dir, unless that is empty. A directory's index.html is its page.
//
// The error is that of opening dir or of reading a file, or says that dir is
// too large.
func loadSite(dir string) (*site, error) {
	s := &site{pages: make(map[string]*answer)}
	files, err := fs.Sub(builtIn, "static")
	if err != nil {
		return nil, err
	}
	if err := s.add(files); err != nil {
		return nil, err
	}
	if dir != "" {
		root, err := os.OpenRoot(dir) // a symbolic link can't lead out of it
		if err != nil {
			return nil, err
		}
		defer root.Close()
		if err := s.add(root.FS()); err != nil {
			return nil, err
		}
	}
	s.pages["/hello"] = newAnswer(http.StatusOK, "Content-Type: text/plain; charset=utf-8\r\n", []byte("Hello, World!\n"))
	s.pages["/json"] = newAnswer(http.StatusOK, "Content-Type: application/json\r\n", []byte(`{"message":"Hello, World!"}`+"\n"))
	return s, nil
}

// add adds the regular files of files, and those that a link in it leads to.
func (s *site) add(files fs.FS) error {
	return fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := fs.Stat(files, name)
		if err != nil {
			log.Printf("not served: %v", err) // a link that leads nowhere, or out of the directory
			return nil
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		if info.Size() > int64(maxSite-s.size) {
			return fmt.Errorf("%s: the files to serve are more than %d MiB", name, maxSite>>20)
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		s.size += len(content)
		page := newAnswer(http.StatusOK, "Content-Type: "+contentType(name, content)+"\r\n", content)
		s.pages["/"+name] = page
		if index, ok := strings.CutSuffix("/"+name, "/index.html"); ok {
			s.pages[index+"/"] = page
		}
		return nil
	})
}

// contentType is what a file is by its name, or else by how it begins.
func contentType(name string, content []byte) string {
	if byName := mime.TypeByExtension(path.Ext(name)); byName != "" {
		return byName
	}
	return http.DetectContentType(content)
}

// route is the answer to a request. A path is looked up as it is: there is no
// directory behind it to climb out of.
func (s *site) route(req *http.Request) *answer {
	asked := req.URL.Path
	if asked == "" { // http://host, or the authority of a CONNECT
		asked = "/"
	}
	page := s.pages[asked]
	switch {
	case page == nil && asked != "*": // OPTIONS *: the server as a whole
		return notFound
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return notAllowed
	}
	return page
}

package contend

import (
	"io"
	"log"
	"net/http"

	"github.com/valyala/fasthttp"
)

// helloPath is the only page of the HTTP service.
const helloPath = "/hello"

// netHTTPPeer is Go's own HTTP server.
func netHTTPPeer() Contender {
	return Contender{
		Name:   "net/http",
		About:  "Package net/http with one handler and no router, its defaults otherwise.",
		Starts: map[Service]Start{HTTP: netHTTP},
	}
}

func netHTTP() (string, error) {
	return launch("net/http", func(ready func(string)) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		server := &http.Server{
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != helloPath {
					http.NotFound(w, r)
					return
				}
				w.Header().Set("Content-Type", "text/plain; charset=utf-8")
				if _, err := io.WriteString(w, Hello); err != nil {
					panic(http.ErrAbortHandler) // the connection is broken
				}
			}),
			ErrorLog: log.New(libraryLog, "net/http: ", 0),
		}
		ready(ln.Addr().String())
		return server.Serve(ln)
	})
}

// fastHTTPPeer is fasthttp.
func fastHTTPPeer() Contender {
	return Contender{
		Name:   "fasthttp",
		About:  "fasthttp v1.77.0, its own HTTP parser and pooled contexts on package net, with one handler and its defaults otherwise.",
		Starts: map[Service]Start{HTTP: fastHTTP},
	}
}

func fastHTTP() (string, error) {
	return launch("fasthttp", func(ready func(string)) error {
		ln, err := listen()
		if err != nil {
			return err
		}
		server := &fasthttp.Server{
			Handler: func(ctx *fasthttp.RequestCtx) {
				if !ctx.IsGet() || string(ctx.Path()) != helloPath {
					ctx.NotFound()
					return
				}
				ctx.SetContentType("text/plain; charset=utf-8")
				ctx.SetBodyString(Hello)
			},
			Logger: log.New(libraryLog, "fasthttp: ", 0),
		}
		ready(ln.Addr().String())
		return server.Serve(ln)
	})
}

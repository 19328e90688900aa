// Command http_server is a web server for HTTP/1.1 and 1.0: keep-alive,
// pipelining, static files.
//
// It shows a protocol with a real parser on complete bytes, and the resumable
// part around it as a frame: conn.go is the connection, head.go the check and
// the parse of a request's head, body.go reads past a body, respond.go makes
// the answers, static.go loads the files.
package main

import (
	"flag"
	"log"
	"net/netip"

	"github.com/stepio-go/stepio"
	"github.com/stepio-go/stepio/examples/internal/cli"
	"github.com/stepio-go/stepio/sm"
)

func main() {
	flags := cli.Define(":8080", "a web server: / is a page, /hello text, /json JSON, the rest static files")
	dir := flag.String("static", "", "`directory` whose files are served, in front of the built-in ones; read once, at the start")
	flags.Main(func(s *cli.Server) (netip.AddrPort, error) {
		site, err := loadSite(*dir)
		if err != nil {
			return netip.AddrPort{}, err
		}
		return s.ListenTCP(func(l *stepio.Loop, ln *stepio.TCPListener) {
			if err := limitUnsent(ln); err != nil {
				log.Printf("slow clients may use more memory: %v", err)
			}
			l.Spawn(newServe(ln, newServer(site, defaultLimits)))
		})
	})
}

// newServe is the frame that accepts from ln and answers by server, which must
// be the loop's own.
func newServe(ln *stepio.TCPListener, server *server) *stepio.Serve {
	return stepio.NewServe(ln, func(sock *stepio.TCPConn) sm.Frame {
		return &conn{sock: sock, server: server}
	})
}

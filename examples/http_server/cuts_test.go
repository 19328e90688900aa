package main

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/testseed"
)

// However a client's bytes are cut on their way, and however little the socket
// takes of the answers at once, the connection's frame sends the same bytes and
// ends in the same way.

// scriptsOf is ways in which text can arrive: whole, byte by byte, at random cuts,
// and, unless it is longer than most, cut once at every point.
func scriptsOf(text string, most int, rnd *rand.Rand) []script {
	all := []script{{pieces: []string{text}}, {pieces: strings.Split(text, "")}, {pieces: []string{text}, room: 1 + rnd.IntN(64)}}
	for range 4 {
		var pieces []string
		for rest, longest := text, 2<<rnd.IntN(11); rest != ""; {
			n := min(len(rest), 1+rnd.IntN(longest))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		all = append(all, script{pieces: pieces, room: rnd.IntN(2) * (1 + rnd.IntN(512))})
	}
	if len(text) <= most {
		for cut := 1; cut < len(text); cut += cutStep {
			all = append(all, script{pieces: []string{text[:cut], text[cut:]}})
		}
	}
	return all
}

// requireSame plays the scripts, all of one text, and returns their outcome.
func requireSame(t testing.TB, scripts []script) outcome {
	t.Helper()
	outcomes := play(t, scripts...)
	for i, got := range outcomes[1:] {
		require.Equal(t, outcomes[0], got, "in one piece, and as %q with room for %d", scripts[i+1].pieces, scripts[i+1].room)
	}
	return outcomes[0]
}

var statusLine = regexp.MustCompile(`(?m)^HTTP/1\.1 (\d{3}) `)

// statusesOf is the statuses of answers that are not for parsing: to requests
// whose methods are odd.
func statusesOf(out string) (list []int) {
	for _, found := range statusLine.FindAllStringSubmatch(out, -1) {
		status, err := strconv.Atoi(found[1])
		if err != nil {
			panic(err) // three digits
		}
		list = append(list, status)
	}
	return list
}

func TestConnAnswersOddRequestsAsTheyAreWhereverTheyAreCut(t *testing.T) {
	rnd := testseed.Rand(t)
	table, plays := oddRequests(), 0
	for _, c := range table {
		scripts := scriptsOf(c.text+followers, 1<<10, rnd)
		plays += len(scripts)
		got := requireSame(t, scripts)
		require.Equal(t, c.want, statusesOf(got.out), "%s: %s: %q", c.class, c.name, c.text)
		assert.True(t, got.shut && !got.reset, "%s: %s: ends in good order", c.class, c.name)
	}
	t.Logf("%d odd requests, played in %d ways", len(table), plays)
}

// FuzzConn looks for a stream of requests whose answers depend on where it is cut,
// and for one in which net/http, where it accepts the same requests, or one of the
// lax readers sees them begin or end elsewhere.
func FuzzConn(f *testing.F) {
	for i, c := range oddRequests() {
		if len(c.text) < maxHead {
			f.Add([]byte(c.text+followers), uint64(i))
		}
	}
	f.Add([]byte(stream), uint64(0))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		if len(text) > 4*maxHead {
			return
		}
		got := requireSame(t, scriptsOf(string(text), 300, rand.New(rand.NewPCG(seed, 0))))
		require.Empty(t, laxly(string(text), got.seen))
		r := bufio.NewReader(strings.NewReader(string(text)))
		for i, seen := range got.seen {
			if b, err := r.Peek(2); err == nil && string(b) == "\r\n" {
				_, _ = r.Discard(2) // they are there
			}
			req, err := http.ReadRequest(r)
			if err != nil {
				return // it is stricter
			}
			size, err := io.Copy(io.Discard, req.Body)
			if err != nil {
				return
			}
			require.Equal(t, sight(req), seen, "request %d", i)
			if req.ContentLength >= 0 {
				require.Equal(t, req.ContentLength, size)
			}
		}
	})
}

package load

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// parseCut feeds a parser's input in pieces of any size, as take does, and
// returns how much of it was whole responses, and the error.
func parseCut(input []byte, cuts ...int) (whole int, err error) {
	var b []byte
	from := 0
	for _, to := range append(cuts, len(input)) {
		b = append(b, input[from:to]...)
		from = to
		for {
			n, err := parseResponse(b, hello)
			if err != nil {
				return whole, err
			}
			if n == 0 {
				break
			}
			whole, b = whole+n, b[n:]
		}
	}
	return whole, nil
}

var responses = []string{
	string(httpOK(0, 0)),
	"HTTP/1.1 200\r\nCONTENT-LENGTH:14\r\nX: \r\n\r\nHello, World!\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 14 \t\r\n\r\nHello, World!\nHTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nHello, World!\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nHello, World?\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, World!",
	"HTTP/1.1 200 OK\r\nContent-Length: -14\r\n\r\nHello, World!\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
	"HTTP/1.1 2000 OK\r\nContent-Length: 14\r\n\r\nHello, World!\n",
	"HTTP/1.0 200 OK\r\nContent-Length: 14\r\n\r\nHello, World!\n",
	"HTTP/1.1 200 OK\r\ntransfer-encoding:chunked\r\n\r\n",
	"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
	"HTTP/1.1 200 OK\r\nX: \r\n\r\n\r\n\r\n",
	"\r\n\r\n",
	"",
	longHead(maxHead),
	longHead(maxHead + 1),
}

// longHead is a good response but for its head, which is n bytes long.
func longHead(n int) string {
	const start = "HTTP/1.1 200 OK\r\nContent-Length: 14\r\nX: "
	return start + strings.Repeat("x", n-len(start)) + "\r\n\r\nHello, World!\n"
}

func TestResponseIsTheSameForEveryCut(t *testing.T) {
	wholes := 0
	for _, text := range responses {
		input := []byte(text)
		want, wantErr := parseCut(input)
		if wantErr == nil && want == len(input) {
			wholes++
		}
		for cut := range input {
			got, err := parseCut(input, cut)
			require.Equal(t, want, got, "%.80q cut at %d", text, cut)
			require.Equal(t, wantErr == nil, err == nil, "%.80q cut at %d: %v and %v", text, cut, wantErr, err)
		}
	}
	require.Equal(t, 5, wholes) // three good ones, the empty input, and a head of the greatest length
}

func FuzzResponse(f *testing.F) {
	for _, text := range responses {
		f.Add([]byte(text), 7, 31)
	}
	f.Fuzz(func(t *testing.T, input []byte, a, b int) {
		a, b = place(a, len(input)), place(b, len(input))
		want, wantErr := parseCut(input)
		got, err := parseCut(input, min(a, b), max(a, b))
		require.Equal(t, want, got)
		require.Equal(t, wantErr == nil, err == nil)
	})
}

// place makes any number a place in n bytes.
func place(a, n int) int { return int(uint(a) % uint(n+1)) }

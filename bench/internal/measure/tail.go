package measure

import (
	"strings"
	"sync"
)

// A tail keeps the first and the last bytes of what is written to it: the
// first line of a crash says what happened, the last ones say how it ended. It
// is safe for any goroutine.
type tail struct {
	mu   sync.Mutex
	head []byte
	last []byte
	cut  bool // something between the two is gone
}

const (
	headBound = 1 << 10
	lastBound = 2 << 10
)

// Write keeps what has room; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(p)
	room := min(headBound-len(t.head), n)
	t.head = append(t.head, p[:room]...)
	t.last = append(t.last, p[room:]...)
	if over := len(t.last) - lastBound; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
		t.cut = true
	}
	return n, nil
}

// String returns what was kept, without blanks around it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	between := ""
	if t.cut {
		between = "\n...\n"
	}
	return strings.TrimSpace(string(t.head) + between + string(t.last))
}

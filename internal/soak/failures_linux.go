package main

import (
	"fmt"
	"sync"
)

// failures are what must not happen, and has: how often, and the first few in
// words. Any goroutine.
type failures struct {
	mu    sync.Mutex
	first []string
	n     int
}

// failuresKept is how many are kept in words.
const failuresKept = 20

func (f *failures) add(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	if len(f.first) < failuresKept {
		f.first = append(f.first, fmt.Sprintf(format, args...))
	}
}

func (f *failures) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func (f *failures) texts() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.first...)
}

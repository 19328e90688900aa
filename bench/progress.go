package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// plainEvery is how often the progress is told where lines cannot be
// overwritten, besides at every new scenario.
const plainEvery = 10 * time.Second

// A progress tells how far the run is. It writes only between windows, so that
// it takes no CPU time from what is measured.
type progress struct {
	out      io.Writer
	terminal bool
	began    time.Time
	counted  time.Time       // when there was first something to count, after the builds
	topics   map[string]bool // that had a line
	told     time.Time       // when the last line was
}

func newProgress(out *os.File, now time.Time) *progress {
	info, err := out.Stat()
	return &progress{
		out:      out,
		terminal: err == nil && info.Mode()&os.ModeCharDevice != 0,
		began:    now,
		topics:   make(map[string]bool),
	}
}

// tell says what begins, after so much of the total, both estimates.
func (p *progress) tell(now time.Time, what string, done, total time.Duration) {
	topic, _, _ := strings.Cut(what, ":") // the scenario
	if !p.terminal && p.topics[topic] && now.Sub(p.told) < plainEvery {
		return
	}
	p.topics[topic], p.told = true, now
	elapsed := now.Sub(p.began)
	line := fmt.Sprintf("%6v  %s", elapsed.Round(time.Second), what)
	if total > 0 {
		if p.counted.IsZero() {
			p.counted = now
		}
		line += fmt.Sprintf(" (about %v to go)", remaining(now.Sub(p.counted), done, total).Round(time.Second))
	}
	if p.terminal {
		// Erase to the end of the line, ECMA-48 EL.
		fmt.Fprintf(p.out, "\r%s\x1b[K", line)
		return
	}
	fmt.Fprintln(p.out, line)
}

// end leaves the line.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// remaining corrects the estimate by how the part that is done has gone, once
// that is enough to tell.
func remaining(elapsed, done, total time.Duration) time.Duration {
	left := total - done
	if done*20 > total {
		left = time.Duration(float64(left) * float64(elapsed) / float64(done))
	}
	return max(left, 0)
}

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is one interval of a run.
type row struct {
	at       time.Duration // its end, since the traffic began
	server   sample
	serverCP float64 // processors that the server has used in it
	clientCP float64 // and the clients, with the control
	othersCP float64 // and everybody else on this machine
	answers  float64 // a second
	times    []latency
}

// record is what a run has measured: its rows, and a CSV file of them, which is
// written as they come.
type record struct {
	kinds []*kind
	rows  []row
	file  *os.File
	csv   *csv.Writer
}

func newRecord(dir string, kinds []*kind) (*record, error) {
	f, err := os.Create(filepath.Join(dir, "samples.csv"))
	if err != nil {
		return nil, err
	}
	r := &record{kinds: kinds, file: f, csv: csv.NewWriter(f)}
	head := []string{
		"seconds", "rss_bytes", "heap_live_bytes", "heap_objects_bytes", "tasks", "registered", "descriptors", "goroutines",
		"server_processors", "client_processors", "other_processors", "answers_per_second", "restarts",
	}
	for _, k := range kinds {
		head = append(head, k.name+"_n", k.name+"_p50_us", k.name+"_p99_us")
	}
	return r, errors.Join(r.csv.Write(head))
}

func (r *record) add(w row) error {
	r.rows = append(r.rows, w)
	decimal := func(f float64) string { return strconv.FormatFloat(f, 'f', 3, 64) }
	micros := func(d time.Duration) string { return strconv.FormatFloat(float64(d)/1e3, 'f', 1, 64) }
	s := w.server
	fields := []string{
		decimal(w.at.Seconds()), fmt.Sprint(s.RSS), fmt.Sprint(s.HeapLive), fmt.Sprint(s.HeapInUse), fmt.Sprint(s.Tasks),
		fmt.Sprint(s.Registered), fmt.Sprint(s.FDs), fmt.Sprint(s.Goroutines),
		decimal(w.serverCP), decimal(w.clientCP), decimal(w.othersCP), decimal(w.answers), fmt.Sprint(s.Restarts.Done),
	}
	for _, l := range w.times {
		fields = append(fields, fmt.Sprint(l.n), micros(l.p50), micros(l.p99))
	}
	err := r.csv.Write(fields)
	r.csv.Flush()
	return errors.Join(err, r.csv.Error())
}

func (r *record) close() error { return r.file.Close() }

// progress is the line that is printed of an interval.
func (w row) progress(kinds []*kind, failed int) string {
	var b strings.Builder
	s := w.server
	fmt.Fprintf(&b, "%7s %6.0f/s  rss %5.1f MiB, heap %4.1f, tasks %d, fds %d | processors %.2f server %.2f clients %.2f others | p99 µs",
		w.at.Round(time.Second), w.answers, float64(s.RSS)/(1<<20), float64(s.HeapInUse)/(1<<20), s.Tasks, s.FDs,
		w.serverCP, w.clientCP, w.othersCP)
	for i, k := range kinds {
		if w.times[i].n > 0 && k.timed {
			fmt.Fprintf(&b, " %s %d", k.name, w.times[i].p99.Microseconds())
		}
	}
	fmt.Fprintf(&b, " | restarts %d, failures %d", s.Restarts.Done, failed)
	return b.String()
}

// judged are the rows after the warm-up.
func (r *record) judged(length time.Duration) []row {
	for i, w := range r.rows {
		if w.at.Seconds() > warmUpShare*length.Seconds() {
			return r.rows[i:]
		}
	}
	return nil
}

// flatness judges memory, and p99 of every kind of traffic unless any is good, over the
// run.
func (r *record) flatness(length time.Duration, anyP99 bool) (verdicts []verdict) {
	rows := r.judged(length)
	series := func(value func(row) float64) []point {
		points := make([]point, len(rows))
		for i, w := range rows {
			points[i] = point{w.at, value(w)}
		}
		return points
	}
	verdicts = append(verdicts,
		growth("server's RSS", series(func(w row) float64 { return float64(w.server.RSS) })),
		growth("server's live heap", series(func(w row) float64 { return float64(w.server.HeapLive) })))
	control := slices.IndexFunc(r.kinds, func(k *kind) bool { return k.name == controlName })
	third := len(rows) / 3
	for i, k := range r.kinds {
		first, last := spanOf(rows[:third], i, control), spanOf(rows[len(rows)-third:], i, control)
		if i != control && k.timed {
			v := slowdown(k.name, first, last)
			if anyP99 && v.judged() {
				v.bad = false
				v.figure += "; not judged: -any-p99"
			}
			verdicts = append(verdicts, v)
		}
	}
	return verdicts
}

// spanOf is what one kind of traffic saw of some intervals.
func spanOf(rows []row, kind, control int) span {
	s := span{intervals: len(rows)}
	for _, w := range rows {
		if w.othersCP <= othersBound*float64(runtime.NumCPU()) && w.times[kind].n > 0 && w.times[control].n > 0 {
			s.p99s = append(s.p99s, float64(w.times[kind].p99))
			s.controls = append(s.controls, float64(w.times[control].p99))
			s.answers = append(s.answers, float64(w.times[kind].n))
		}
	}
	return s
}

// plot draws memory, p99 and the use of the processors over the time of the run.
func (r *record) plot(title string, length time.Duration, marks []time.Duration) string {
	const mib = 1 << 20
	memory := chart{title: "memory of the servers", unit: "MiB", lines: []line{
		{name: "resident (RSS)"}, {name: "live heap"},
	}}
	times := chart{title: "p99 of every interval", unit: "ms", log: true}
	load := chart{title: "processors in use", unit: "processors", lines: []line{
		{name: "servers"}, {name: "clients"}, {name: "others"},
	}}
	for _, k := range r.kinds {
		times.lines = append(times.lines, line{name: k.name, dashed: k.name == controlName})
	}
	for _, w := range r.rows {
		memory.lines[0].add(w.at, float64(w.server.RSS)/mib)
		memory.lines[1].add(w.at, float64(w.server.HeapLive)/mib)
		load.lines[0].add(w.at, w.serverCP)
		load.lines[1].add(w.at, w.clientCP)
		load.lines[2].add(w.at, w.othersCP)
		for i, l := range w.times {
			if l.n >= fewestAnswers {
				times.lines[i].add(w.at, float64(l.p99)/1e6)
			}
		}
	}
	times.lines = slices.DeleteFunc(times.lines, func(l line) bool { return len(l.points) == 0 })
	return plot(title, length, marks, memory, times, load)
}

//go:build linux || darwin

package stepio

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Conformance: one table of cases, run over every kernel interface that there is
// here. A case says what the loop, or its poller, promises whatever is below it;
// it is written once, in the terms of the library, and its peers are sockets of
// the same kernel (see host). On Linux the back ends are
//
//   - epoll, woken by its eventfd;
//   - epoll, woken by the pipe that macOS uses;
//   - the simulated kernel, internal/simkernel;
//   - with the tag kqsim, kqueue.go over internal/kqsim: what this library makes of
//     kqueue(2), over an emulation of it.
//
// On macOS it is kqueue itself, and the simulated kernel.

// backend is what a loop can run on.
type backend struct {
	name   string
	poller func(batch int) (poller, error) // nil: the simulated kernel's
	// interrupt sends signals to the calling thread, many, until it is stopped.
	interrupt func(t testing.TB) (stop func())
	// lacks says why a case is not for this back end, by what it needs.
	lacks map[need]string
	// skips is how many cases that concerns. It is pinned: a case that is skipped
	// is a decision.
	skips int
}

// need is something that not every back end has.
type need string

const (
	needsNothing need = ""
	needsPipes   need = "pipes and Unix sockets"
	needsFiles   need = "files"
	needsUrgent  need = "urgent data"
	needsSharing need = "two descriptors of one file"
	needsBehind  need = "a descriptor closed behind the loop's back"
	needsSignals need = "signals, or interrupted calls"
)

// conformCase is one promise.
type conformCase struct {
	name  string
	needs need
	run   func(h *host)
}

var simulated = backend{
	name: "simulated kernel",
	lacks: map[need]string{
		needsPipes:   "the simulated kernel has TCP and UDP sockets only",
		needsFiles:   "the simulated kernel has no files",
		needsUrgent:  "the simulated kernel has no urgent data",
		needsSharing: "the simulated kernel can't duplicate a descriptor",
		needsBehind:  "the simulated kernel takes it for an error of the library's",
	},
	skips: 11,
}

func TestConformance(t *testing.T) {
	var cases []conformCase
	for _, part := range [][]conformCase{
		conformPoller, conformWakes, conformInterest, conformEnds, conformBatches, conformTimers, conformSockets, conformDescriptors,
	} {
		cases = append(cases, part...)
	}
	for _, b := range append(kernels, simulated) {
		t.Run(b.name, func(t *testing.T) {
			skipped := 0
			for _, c := range cases {
				reason, skip := b.lacks[c.needs]
				if skip {
					skipped++
				}
				t.Run(c.name, func(t *testing.T) {
					if skip {
						t.Skip(reason)
					}
					c.run(b.open(t, c.needs == needsSignals))
				})
			}
			t.Logf("%s: %d cases, %d of them skipped", b.name, len(cases), skipped)
			assert.Equal(t, b.skips, skipped, "cases that are skipped: see backend.skips")
		})
	}
}

//go:build linux || darwin

package stepio

import (
	"hash/fnv"
	"math/rand/v2"
	"testing"
)

// fuzzSource makes every decision of a simulation one byte of a fuzzer's input:
// who runs, what a call moves, what it fails with, when an event comes, and whether
// it is true. What comes after the input is random, and follows from the input, so
// that a run ends.
type fuzzSource struct {
	in   []byte
	rest *rand.PCG
}

func newFuzzSource(in []byte) *fuzzSource {
	h := fnv.New64a()
	_, _ = h.Write(in) // a hash takes everything
	return &fuzzSource{in: in, rest: rand.NewPCG(h.Sum64(), 0)}
}

// Uint64 implements rand.Source. The byte is in every place: some numbers are made
// of the upper bits, some of the lower ones.
func (f *fuzzSource) Uint64() uint64 {
	if len(f.in) == 0 {
		return f.rest.Uint64()
	}
	b := f.in[0]
	f.in = f.in[1:]
	return uint64(b) * 0x0101_0101_0101_0101
}

// mostFuzzed is how much of an input decides; more finds no more.
const mostFuzzed = 4096

// framesUnderReadiness is a run of every frame of this package, and of All, Any and
// Stack, over a kernel that does what the input says. What holds is what holds in
// TestSim: every byte once, in order, to its owner; every frame closed once; nobody
// waits for what is there; everybody comes to an end.
func framesUnderReadiness(t *testing.T, in []byte) {
	s := &sim{rnd: rand.New(newFuzzSource(in[:min(len(in), mostFuzzed)]))}
	s.messages = s.rnd.IntN(2) == 0
	s.play(nil)
	if len(s.problems) > 0 {
		t.Fatalf("%s\n%s", s.problems[0], s.tasks)
	}
}

func TestFramesUnderRandomReadiness(t *testing.T) {
	rnd := seededRand(t)
	for range simSeedsHere / 10 {
		in := make([]byte, rnd.IntN(2*mostFuzzed))
		for i := range in {
			in[i] = byte(rnd.Uint32())
		}
		framesUnderReadiness(t, in)
	}
}

func FuzzFrames(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 1)) // the corpus stays the same
	for _, length := range []int{0, 16, 256, 2048, mostFuzzed} {
		in := make([]byte, length)
		for i := range in {
			in[i] = byte(rnd.Uint32())
		}
		f.Add(in)
	}
	f.Fuzz(framesUnderReadiness)
}

// Package testseed is the flag -seed, which every test binary of this module
// takes, so that one command repeats a failure wherever it was:
//
//	go test -run TestName ./... -seed=N
//
// A package with random tests draws from Rand. One without imports this package
// for its flag alone, since the go command hands a flag to every binary, and one
// that does not know it fails.
package testseed

import (
	"flag"
	"math/rand/v2"
	"testing"
)

var given = flag.Uint64("seed", 0, "seed of the random tests, as a failed one printed it; 0: a new one each")

// Given is the seed that was given by -seed, 0 when none was.
func Given() uint64 { return *given }

// Rand is the random source of one test. A failed test prints its seed.
func Rand(t testing.TB) *rand.Rand {
	s := Given()
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("again with: -run '^%s$' -seed %d", t.Name(), s)
	return rand.New(rand.NewPCG(s, s))
}

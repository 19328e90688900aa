package cli

import (
	"testing"

	"github.com/stretchr/testify/assert"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

func TestProcessorsAreOneMoreThanLoops(t *testing.T) {
	for _, c := range []struct {
		name                 string
		loops, workers, cpus int
		want                 int
	}{
		{"one loop on one CPU has one to spare", 1, 0, 1, 2},
		{"a loop on each CPU has one to spare", 2, 0, 2, 3},
		{"more loops than CPUs add none", 1024, 0, 2, 3},
		{"workers take what there is", 1, 1, 2, 2},
		{"workers add none to the CPUs", 2, 64, 2, 2},
		{"workers on one CPU share it", 1, 1, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Equal(t, c.want, processors(c.loops, c.workers, c.cpus))
		})
	}
}

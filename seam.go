package stepio

import (
	"time"

	"github.com/stepio-go/stepio/internal/seam"
)

// The way under a loop for tests in other packages of this module.
func init() {
	seam.Option = func(under any, clock func() time.Duration) any {
		return LoopOption(func(c *loopConfig) { c.kernel, c.clock = under.(kernel), clock })
	}
}

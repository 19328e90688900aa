// Package seam lets the tests of this module's other packages put a kernel of
// their own under a loop, as those of package stepio do: an example's frames then
// run without sockets, piece by piece, as a test decides. Users must not see it.
package seam

import "time"

// Option is an option of stepio.NewLoop, a stepio.LoopOption, that has the loop
// make its calls to kernel and take the time from clock. The methods that kernel
// must have are those of the interface of that name in package stepio's sys.go; it
// panics when there is none of them. Package stepio sets it.
var Option func(kernel any, clock func() time.Duration) any

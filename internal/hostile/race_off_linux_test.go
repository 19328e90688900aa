//go:build !race

package hostile

// raceDetector says whether the race detector is compiled in: it multiplies time
// and memory.
const raceDetector = false

//go:build !race

package errnosweep

const raceDetector = false

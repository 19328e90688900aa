//go:build race

package errnosweep

const raceDetector = true

//go:build race

package main

// cutStep is how far the cuts of a text are apart that is cut everywhere: under the
// race detector, which finds nothing in one goroutine, not quite.
const cutStep = 16

//go:build !race

package main

// cutStep is how far the cuts of a text are apart that is cut everywhere.
const cutStep = 1

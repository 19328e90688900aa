//go:build !race

package stepio

// simSeedsHere is how many seeds TestSim runs unless it is told.
const simSeedsHere = 2000

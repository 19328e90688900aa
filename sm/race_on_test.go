//go:build race

package sm_test

const raceEnabled = true

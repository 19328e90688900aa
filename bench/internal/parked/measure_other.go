//go:build !linux

// Package parked measures what a great number of parked tasks cost.
package parked

import (
	"errors"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// Measure fails: the figures come from Linux's /proc.
func Measure(int) (result.Parked, error) {
	return result.Parked{}, errors.New("parked: the benchmark needs Linux")
}

//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "soak: what it measures, it reads from Linux's /proc")
	os.Exit(1)
}

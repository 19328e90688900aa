package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const coresUsage = `CPUs of each server and each client, which the others leave alone:
"server=1,client=1" says how many; with a CPU 0, a range or a sum in it,
as in "server=0,client=1" or "server=0,client=2-3+6", it says which`

// pickCores returns the CPUs of the servers and of the clients that the text
// asks for, out of those that this process may use. When there is but one, both
// get it.
func pickCores(text string, have []int) (server, client []int, err error) {
	sides := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		side, value, ok := strings.Cut(part, "=")
		if _, twice := sides[side]; !ok || twice || (side != "server" && side != "client") {
			return nil, nil, fmt.Errorf("-cores %q: want server=N,client=N", text)
		}
		sides[side] = value
	}
	if len(sides) != 2 {
		return nil, nil, fmt.Errorf("-cores %q: want both server=N and client=N", text)
	}
	one, other := sides["server"], sides["client"]
	if isList(one) || isList(other) {
		if server, err = parseCPUs(one, have); err == nil {
			client, err = parseCPUs(other, have)
		}
	} else {
		server, client, err = countCPUs(one, other, have)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("-cores %q: %w", text, err)
	}
	for _, cpu := range client {
		if slices.Contains(server, cpu) && len(have) > 1 {
			return nil, nil, fmt.Errorf("-cores %q: CPU %d is on both sides", text, cpu)
		}
	}
	return server, client, nil
}

// isList tells CPU numbers from a count of CPUs, which is never zero.
func isList(value string) bool { return value == "0" || strings.ContainsAny(value, "-+") }

// parseCPUs reads a list such as 0+2-3.
func parseCPUs(value string, have []int) ([]int, error) {
	var cpus []int
	for part := range strings.SplitSeq(value, "+") {
		low, high, ranged := strings.Cut(part, "-")
		if !ranged {
			high = low
		}
		from, err := strconv.Atoi(low)
		if err != nil {
			return nil, err
		}
		to, err := strconv.Atoi(high)
		if err != nil {
			return nil, err
		}
		if to < from || from < have[0] || to > have[len(have)-1] {
			return nil, fmt.Errorf("%q is not among the CPUs %v", part, have)
		}
		for cpu := from; cpu <= to; cpu++ {
			if !slices.Contains(have, cpu) || slices.Contains(cpus, cpu) {
				return nil, fmt.Errorf("CPU %d is there twice, or not among %v", cpu, have)
			}
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// countCPUs gives the servers the first CPUs and the clients the next.
func countCPUs(server, client string, have []int) (servers, clients []int, err error) {
	n, err := strconv.Atoi(server)
	if err != nil {
		return nil, nil, err
	}
	m, err := strconv.Atoi(client)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case n < 1 || m < 1:
		return nil, nil, errors.New("each side needs a CPU")
	case len(have) == 1 && n == 1 && m == 1:
		return have, have, nil
	case n > len(have) || m > len(have)-n:
		return nil, nil, fmt.Errorf("there are %d CPUs", len(have))
	}
	return have[:n:n], have[n : n+m : n+m], nil
}

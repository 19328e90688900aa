package suite

import "slices"

// pairs are the contenders whose windows stay side by side: a variant of stepio
// and the limit that it is held against. Their ratio is the finest figure of the
// report.
var pairs = [][2]string{{"stepio", "C epoll"}, {"stepio batch", "C mmsg"}}

// order returns the order in which contenders have their windows in a round, as
// indices into their names.
//
// The two of a pair stay together and take turns in going first. From round to
// round another one begins, and the step by which the rest follow changes too: a
// plain rotation would leave everyone behind the same neighbour for ever.
func order(names []string, round int) []int {
	units := together(names)
	m := len(units)
	if m == 0 {
		return nil
	}
	strides := coprimes(m)
	stride := strides[round%len(strides)]
	turn := round
	if m%2 == 0 {
		// Otherwise a pair would always be in the same order when it begins.
		turn += round / m
	}
	swap := turn%2 == 1
	out := make([]int, 0, len(names))
	for i := range m {
		unit := units[(round+i*stride)%m]
		if swap {
			slices.Reverse(unit)
		}
		out = append(out, unit...)
	}
	return out
}

// together cuts the names into pairs and single ones, as indices.
func together(names []string) [][]int {
	var units [][]int
	for i, name := range names {
		unit := []int{i}
		for _, pair := range pairs {
			first, second := slices.Index(names, pair[0]), slices.Index(names, pair[1])
			if first < 0 || second < 0 {
				continue
			}
			switch name {
			case pair[0]:
				unit = append(unit, second)
			case pair[1]:
				unit = nil
			}
		}
		if unit != nil {
			units = append(units, unit)
		}
	}
	return units
}

// coprimes returns the strides that visit every one of m places.
func coprimes(m int) []int {
	out := []int{1}
	for s := 2; s < m; s++ {
		if gcd(s, m) == 1 {
			out = append(out, s)
		}
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

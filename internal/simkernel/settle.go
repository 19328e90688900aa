//go:build linux || darwin

package simkernel

import "time"

// What a test does by hand that has to know what the next wait will find. A
// simulation that is drawn by chance uses none of it.

// Settle lets everything arrive that is on its way.
func (k *Kernel) Settle() {
	for len(k.flight) > 0 {
		k.step()
	}
}

// Pass lets time pass, and what was to happen meanwhile.
func (k *Kernel) Pass(d time.Duration) { k.pass(k.now + d) }

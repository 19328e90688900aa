//go:build linux || darwin

package simkernel

// A Fault is one of the things that a simulation does to the code under it. Some
// are drawn by chance, with a rate each; some happen by themselves and are only
// counted; the last ones are done by whoever drives the simulation.
type Fault int

// The faults.
const (
	PartialRead      Fault = iota // a read returns less than there is; the rest counts as arriving after it
	PartialWrite                  // a write takes less than there is room for
	Interrupted                   // EINTR
	WouldBlock                    // EAGAIN without reason; an event follows
	SpuriousEvent                 // an event for nothing
	DelayedEvent                  // an event that is not reported yet
	ReorderedEvents               // a batch in another order
	StaleEvent                    // an event of a descriptor that was closed since
	Reset                         // both ends of a connection are reset
	OutOfFiles                    // EMFILE, of socket and accept
	OutOfBuffers                  // ENOBUFS, of socket, accept and sendto
	Aborted                       // ECONNABORTED: a connection ends in the accept queue
	RefusedInterest               // ENOMEM of a registration that is added or changed
	Unanswered                    // nobody answers a connect: ETIMEDOUT in the end
	LostDatagram                  // a datagram does not arrive
	DoubleDatagram                // a datagram arrives twice
	Concurrent                    // another goroutine does something meanwhile
	MergedEvents                  // counted: a descriptor becomes ready again before that is reported
	HalfClosed                    // counted: an end arrives while the other direction is open
	ReusedNumber                  // counted: a number is closed and opened again within a batch
	TimerWithEvents               // counted: a wait ends by its timeout and brings events
	BacklogFull                   // counted: a connect finds the accept queue full
	Post                          // the driver: a function is posted
	Wake                          // the driver: a task is woken
	Destroy                       // the driver: a task is destroyed
	CloseUnderWaiter              // the driver: a descriptor is closed while a task waits for it
	HandOver                      // the driver: a connection is detached and taken over
	AbandonedJob                  // the driver: a job's task ends before the job
	StopEarly                     // the driver: the loop is closed while its tasks work
	Faults                        // how many there are
)

// String names the fault.
func (f Fault) String() string {
	return [...]string{
		"PartialRead", "PartialWrite", "Interrupted", "WouldBlock", "SpuriousEvent", "DelayedEvent", "ReorderedEvents",
		"StaleEvent", "Reset", "OutOfFiles", "OutOfBuffers", "Aborted", "RefusedInterest", "Unanswered", "LostDatagram",
		"DoubleDatagram", "Concurrent", "MergedEvents", "HalfClosed", "ReusedNumber", "TimerWithEvents", "BacklogFull",
		"Post", "Wake", "Destroy", "CloseUnderWaiter", "HandOver", "AbandonedJob", "StopEarly",
	}[f]
}

// Drawn is how many faults, the first ones, are drawn by chance.
const Drawn = Concurrent + 1

// draw decides by chance whether f happens now, and counts it.
func (k *Kernel) draw(f Fault) bool {
	if k.config.Rates[f] == 0 || k.rnd.Uint32N(1024) >= k.config.Rates[f] {
		return false
	}
	k.Count(f)
	return true
}

// SetRate changes how often f is drawn from now on, of 1024.
func (k *Kernel) SetRate(f Fault, rate uint32) { k.config.Rates[f] = rate }

// Count notes that f has happened.
func (k *Kernel) Count(f Fault) { k.Hits[f]++ }

// concurrent is where another goroutine could run.
func (k *Kernel) concurrent() {
	if k.config.Concurrent != nil && !k.elsewhere && k.draw(Concurrent) {
		k.elsewhere = true
		k.config.Concurrent()
		k.elsewhere = false
	}
}

// Breaks reports whether f ends what it happens to: a connection, or a wait.
func Breaks(f Fault) bool {
	switch f {
	case Reset, Aborted, RefusedInterest, Unanswered:
		return true
	}
	return false
}

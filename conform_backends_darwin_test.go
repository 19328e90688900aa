package stepio

// kernels are the back ends of macOS that are real. There is no call to send a
// signal to one thread.
var kernels = []backend{{
	name: "kqueue", poller: newKqueue,
	lacks: map[need]string{needsSignals: "no signal can be sent to one thread"},
	skips: 2,
}}

// underWay would be how many bytes a connection has sent that were not
// acknowledged; no call tells.
func underWay(int) int { return 0 }

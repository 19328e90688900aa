// Package load is the client of the benchmark: one thread on one epoll
// instance, with raw syscalls, so that it costs less than the servers it
// measures. It runs in a process of its own, "bench load", and is told what to do
// by JSON values on its standard input, each answered by one on its standard
// output.
package load

import "time"

// A Kind is what the client does with its connections.
type Kind string

const (
	// Echo keeps Depth messages of Size bytes under way on each of Conns TCP
	// connections; a request is one message back, every byte verified.
	Echo Kind = "echo"
	// Paced sends a message of Size bytes each Pace, whatever the server does, on each
	// of Conns TCP connections in turn: a load that leaves it time to spare. A request
	// is one message back.
	Paced Kind = "paced"
	// Churn keeps Conns connections going that each connect, exchange one message,
	// and close with a reset (no TIME_WAIT); a request is all of that.
	Churn Kind = "churn"
	// UDP keeps Depth datagrams of Size bytes under way on each of Conns connected
	// sockets. What is lost is counted and sent again.
	UDP Kind = "udp"
	// HTTP keeps Depth requests for /hello under way on each of Conns keep-alive
	// connections; status and body are verified.
	HTTP Kind = "http"
	// Fanout has one publisher and Conns subscribers; the next message goes out
	// when every subscriber has the last. A request is one message at one
	// subscriber, its latency counted from the send.
	Fanout Kind = "fanout"
)

// A Spec is a load.
type Spec struct {
	Kind  Kind   `json:"kind"`
	Addr  string `json:"addr"`  // host:port of the server
	Conns int    `json:"conns"` // active connections or sockets; for Fanout, subscribers
	Size  int    `json:"size"`  // bytes of a message, at least 16
	Depth int    `json:"depth"` // messages under way on each connection, at least 1

	Pace time.Duration `json:"pace,omitempty"` // nanoseconds from message to message; Paced alone has one
}

// A Command is one line of the client's input.
type Command struct {
	// Op is one of: "open", which makes the connections of Spec and sends one
	// message over each; "idle", which brings the connections that do nothing
	// to Idle in all, each after one verified exchange (TCP kinds); "run",
	// which runs the load for Window; "close", which closes everything with
	// resets.
	Op     string        `json:"op"`
	Spec   Spec          `json:"spec,omitzero"`
	Idle   int           `json:"idle,omitempty"`
	Window time.Duration `json:"window,omitempty"` // nanoseconds
	PID    int           `json:"pid,omitempty"`    // the server, whose CPU clock "run" reads
}

// A Reply answers a Command.
type Reply struct {
	Error  string `json:"error,omitempty"` // what the server did wrong, or why the client could not
	Window Window `json:"window,omitzero"`
}

// A Window is what one "run" has measured.
type Window struct {
	Requests int64         `json:"requests"`
	Elapsed  time.Duration `json:"elapsed"` // nanoseconds
	CPU      time.Duration `json:"cpu"`     // of the server process, user and system, nanoseconds
	Client   time.Duration `json:"client"`  // of the client process, likewise
	Lost     int64         `json:"lost"`    // datagrams that did not come back
	Latency  []byte        `json:"latency"` // HdrHistogram of nanoseconds, V2 compressed, as its Encode gives it
}

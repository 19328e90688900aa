// Package result is what a run of the benchmark has found: the JSON file is
// this, and the table and the HTML report are drawn from it.
package result

import "time"

// A Report is one run.
type Report struct {
	Started   time.Time     `json:"started"`
	Took      time.Duration `json:"took"` // nanoseconds
	Command   string        `json:"command"`
	Commit    string        `json:"commit"` // of the library, "+" when the tree was changed since
	Machine   Machine       `json:"machine"`
	Settings  Settings      `json:"settings"`
	Contend   []Contender   `json:"contenders"`
	Scenarios []Scenario    `json:"scenarios"`
	Parked    *Parked       `json:"parked,omitempty"`
	Claims    []Claim       `json:"claims"`
	Notes     []string      `json:"notes"` // what was left out and why, and what is in doubt
}

// A Machine is where it ran.
type Machine struct {
	CPU         string `json:"cpu"`
	CPUs        int    `json:"cpus"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	OS          string `json:"os"`
	Go          string `json:"go"`
	CC          string `json:"cc"`
	Virtual     string `json:"virtual"` // the hypervisor as far as it can be told, "" when none is seen
	ClockSource string `json:"clock_source"`
	Congestion  string `json:"congestion_control"` // what TCP sockets have that ask for none
	Load        string `json:"load"`               // /proc/loadavg at the start
}

// Settings are the run's own.
type Settings struct {
	Window      time.Duration `json:"window"` // nanoseconds
	Rounds      int           `json:"rounds"`
	RoundsTight int           `json:"rounds_tight"` // of the scenarios whose promises are tight
	Life        int           `json:"life"`         // rounds that a server lives at most; 0: all of them
	ServerCores []int         `json:"server_cores"`
	ClientCores []int         `json:"client_cores"`
}

// A Contender is one server that took part.
type Contender struct {
	Name  string `json:"name"`
	About string `json:"about"`
	Limit bool   `json:"limit"`
}

// A Group names which scenarios belong in one plot.
type Group string

// The groups, in the order of the report.
const (
	GroupEcho    Group = "echo"    // 64 B echo over the number of connections
	GroupPaced   Group = "paced"   // 64 B echo at a rate that leaves the server time to spare
	GroupSize    Group = "size"    // larger messages, pipelining
	GroupIdle    Group = "idle"    // many idle connections
	GroupChurn   Group = "churn"   // connections that come and go
	GroupUDP     Group = "udp"     // datagrams
	GroupHTTP    Group = "http"    // keep-alive HTTP
	GroupFanout  Group = "fanout"  // one to many
	GroupDensity Group = "density" // bytes of an idle connection
)

// A Scenario is one load on every contender that serves it.
type Scenario struct {
	ID    string `json:"id"`    // stable: "echo-64B-100"
	Title string `json:"title"` // a heading
	Group Group  `json:"group"`
	Conns int    `json:"conns"` // active connections, sockets, or subscribers
	Idle  int    `json:"idle"`  // and idle ones
	Size  int    `json:"size"`
	Depth int    `json:"depth"`
	Unit  string `json:"unit"` // what a request is: "request", "connection", "delivery"
	Rows  []Row  `json:"rows"`
}

// A Row is one contender in one scenario.
type Row struct {
	Contender string   `json:"contender"`
	Failure   string   `json:"failure,omitempty"` // what went wrong; then the rest may be empty
	Samples   []Sample `json:"samples"`           // one for each round

	// Computed from Samples, and of no use when there are none.
	CPU        Stat `json:"cpu"`        // server CPU time a request, nanoseconds
	Throughput Stat `json:"throughput"` // requests a second
	P50        Stat `json:"p50"`        // latency, nanoseconds, of the rounds' percentiles
	P99        Stat `json:"p99"`
	P999       Stat `json:"p999"`
	// The ratios are of CPU and P99 to the same round's of "stepio" and of the
	// limit; N is 0 where there is none to compare with.
	CPUToStepio Stat `json:"cpu_to_stepio"`
	CPUToLimit  Stat `json:"cpu_to_limit"`
	P99ToLimit  Stat `json:"p99_to_limit"`

	Lost     int64              `json:"lost,omitempty"`     // datagrams, all rounds
	Latency  []byte             `json:"latency,omitempty"`  // HdrHistogram of all rounds, V2 compressed
	Syscalls map[string]float64 `json:"syscalls,omitempty"` // calls a request by name, under strace

	Density []DensityPoint `json:"density,omitempty"` // of the density scenario only
	RSSConn float64        `json:"rss_conn"`          // bytes of resident memory a connection: the slope from the second point to the last
	GoConn  float64        `json:"go_conn"`           // bytes of Go heap and stacks a connection, likewise; 0 where there is no Go
}

// A Sample is one window.
type Sample struct {
	Round      int           `json:"round"`
	Requests   int64         `json:"requests"`
	Elapsed    time.Duration `json:"elapsed"`
	CPU        time.Duration `json:"cpu"`
	Client     time.Duration `json:"client"`
	P50        int64         `json:"p50"`
	P99        int64         `json:"p99"`
	P999       int64         `json:"p999"`
	Lost       int64         `json:"lost,omitempty"`
	ServerRSS  int64         `json:"server_rss"`
	Failure    string        `json:"failure,omitempty"`
	LatencyHDR []byte        `json:"latency_hdr,omitempty"`
}

// A DensityPoint is the memory of a server with that many idle connections.
type DensityPoint struct {
	Conns int   `json:"conns"`
	RSS   int64 `json:"rss"`
	Go    int64 `json:"go"` // heap and stacks after a full collection; -1 where there is no Go
}

// A Stat sums up one figure of several rounds.
type Stat struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"`
}

// Parked is what a great number of parked tasks cost, without descriptors.
type Parked struct {
	Tasks     int           `json:"tasks"`
	HeapTask  float64       `json:"heap_task"` // bytes of Go heap a task
	RSSTask   float64       `json:"rss_task"`  // bytes of resident memory a task
	GCCPU     time.Duration `json:"gc_cpu"`    // CPU time of one full garbage collection
	GCWall    time.Duration `json:"gc_wall"`
	GCPause   time.Duration `json:"gc_pause"`    // the longest time that it stopped the world
	WakeTask  time.Duration `json:"wake_task"`   // CPU time to wake, step and park a task, all of them once
	AllocWake float64       `json:"alloc_wake"`  // allocations of one such wake
	Goroutine float64       `json:"rss_blocked"` // for comparison: resident bytes a goroutine that waits on a channel
}

// A Claim is one line of what the library promises of this benchmark.
type Claim struct {
	What  string  `json:"what"`  // "echo 64 B, 100 connections: server CPU to the C limit"
	Bound float64 `json:"bound"` // at most
	Value float64 `json:"value"`
	// Low and High are the 95 % confidence interval of a Value that is a median of
	// rounds; 0 of any other, and with fewer than six rounds.
	Low   float64 `json:"low,omitempty"`
	High  float64 `json:"high,omitempty"`
	Unit  string  `json:"unit"` // "" for a ratio
	Met   bool    `json:"met"`
	Known bool    `json:"known"` // false when the run had no figure for it
}

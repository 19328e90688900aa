package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// config is what the flags say.
type config struct {
	length   time.Duration
	seed     uint64
	rate     float64
	loops    int
	interval time.Duration
	restart  time.Duration
	grace    time.Duration
	settle   time.Duration // that the servers have to notice that every client has gone
	anyP99   bool
	dir      string
	env      []string // more of the servers' environment
}

func main() {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(runRole(role))
	}
	c := config{settle: 30 * time.Second}
	flag.DurationVar(&c.length, "for", 2*time.Minute, "how `long` there is traffic")
	flag.Uint64Var(&c.seed, "seed", 0, "seed of what the clients do; 0: a new one")
	flag.Float64Var(&c.rate, "rate", 3000, "requests a `second`, of all kinds with a share in it")
	flag.IntVar(&c.loops, "loops", 2, "`number` of loops that serve")
	flag.DurationVar(&c.interval, "interval", 0, "`time` between two samples; 0: 1 s to 5 s, by -for")
	flag.DurationVar(&c.restart, "restart", 0, "`time` between two restarts of the servers; 0: a tenth of -for, but 20 s to 1 minute")
	flag.DurationVar(&c.grace, "grace", 8*time.Second, "`time` that the tasks of a server have to end, at a restart")
	flag.BoolVar(&c.anyP99, "any-p99", false, "say what p99 did and do not judge it: for a short run on a machine that is not quite one's own")
	flag.StringVar(&c.dir, "dir", "", "`directory` for the results; empty: a new temporary one")
	flag.Parse()
	if flag.NArg() > 0 || c.length <= 0 || c.rate <= 0 || c.loops <= 0 || c.interval < 0 || c.restart < 0 || c.grace <= 0 {
		fmt.Fprintln(os.Stderr, "soak: an argument that is no flag, or a number that is not positive")
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	good, err := c.defaults().run(ctx, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

// defaults fills in what depends on other flags.
func (c config) defaults() config {
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	if c.interval == 0 {
		c.interval = min(max(c.length/600, time.Second), 5*time.Second)
	}
	if c.restart == 0 {
		c.restart = min(max(c.length/10, 20*time.Second), time.Minute)
	}
	return c
}

// Command bench measures stepio against package net, other event-driven
// libraries and a server in C, each in a process of its own, and writes a table,
// a JSON file and an HTML report.
//
//	go -C bench run .           # about five and a half minutes
//	go -C bench run . -quick    # under one
//
// Its sub-commands are the processes that it starts (serve, load, parked), and
// list.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"text/tabwriter"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/load"
	"github.com/stepio-go/stepio/bench/internal/parked"
	"github.com/stepio-go/stepio/bench/internal/suite"
)

func main() {
	err := run(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return // what there is to say was said
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "serve":
		return serve(args[1:])
	case "load":
		return load.Main(os.Stdin, os.Stdout)
	case "parked":
		return park(args[1:])
	case "list":
		return list(os.Stdout)
	}
	s, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	// The first ^C ends the run, the second one this process.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	context.AfterFunc(ctx, cancel)
	return s.bench(ctx)
}

// serve is a server process: bench serve NAME SERVICE.
func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("want: bench serve NAME SERVICE (see: bench list)")
	}
	c, ok := contend.Find(args[0])
	if !ok {
		return fmt.Errorf("there is no contender %q (see: bench list)", args[0])
	}
	start := c.Starts[contend.Service(args[1])]
	if start == nil {
		return fmt.Errorf("%s does not serve %q in this program", c.Name, args[1])
	}
	return contend.Serve(start, os.Stdin, os.Stdout)
}

// park is the process that weighs parked tasks: bench parked N.
func park(args []string) error {
	if len(args) != 1 {
		return errors.New("want: bench parked N")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return fmt.Errorf("%q is not a number of tasks", args[0])
	}
	weighed, err := parked.Measure(n)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(weighed)
}

// list prints what there is to choose from.
func list(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONTENDER\t")
	for _, c := range contend.All() {
		fmt.Fprintf(w, "%s\t%s\n", c.Name, c.About)
	}
	fmt.Fprintln(w, "\t\nSCENARIO\t")
	for _, s := range suite.Scenarios() {
		fmt.Fprintf(w, "%s\t%s\n", s.ID, s.Title)
	}
	return w.Flush()
}

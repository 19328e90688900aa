package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/measure"
	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
	"github.com/stepio-go/stepio/bench/internal/suite"
)

// The lengths of a run. The usual one's budget of five to six minutes on two CPUs of a
// virtual machine: some 115 rows of 4 windows of 200 ms, or 6 where promises are tight,
// half a window to warm up and one under strace, and about 300 ms to start, open and
// close; the scenarios of 10,000 and 15,000 connections take another minute and a half,
// to open them and for their longer windows; the parked tasks ten seconds. Windows are
// short because a machine's speed changes for seconds at a time: a ratio within a round
// is then of like and like.
var (
	usual = length{rounds: 4, tight: 6, life: 4, window: 200 * time.Millisecond, parked: 1000000, traced: 1000}
	quick = length{rounds: 2, tight: 2, window: 80 * time.Millisecond, parked: 100000, traced: 1000, few: true}
	full  = length{rounds: 12, tight: 40, life: 8, window: 300 * time.Millisecond, parked: 1000000, traced: math.MaxInt}
)

type length struct {
	rounds int
	tight  int // rounds where promises are tight
	life   int // rounds after which all servers are started anew; 0: never
	window time.Duration
	parked int
	traced int  // connections up to which syscalls are counted: strace makes more take long
	few    bool // only those of quickNames
}

// quickNames are the contenders of a quick run: the library, the limits, and the
// peers that most people compare with.
var quickNames = []string{
	"stepio", "stepio batch", "C epoll", "C mmsg", "net", "net large", "gnet", "net/http", "fasthttp",
}

// settings are the command line.
type settings struct {
	length
	args       []string
	cores      string
	only       *regexp.Regexp
	contenders *regexp.Regexp
	out        string
	notes      []string
}

func parse(args []string, usage io.Writer) (*settings, error) {
	s := &settings{length: usual, args: args}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard) // what is wrong is returned, and told once
	isQuick := f.Bool("quick", false, "under one minute: fewer and shorter windows, fewer contenders")
	isFull := f.Bool("full", false, "many rounds: about half an hour")
	rounds := f.Int("rounds", usual.rounds, fmt.Sprintf("windows of each contender in each scenario\nwithout it %d where promises are tight", usual.tight))
	window := f.Duration("window", usual.window, "length of a window")
	tasks := f.Int("parked", usual.parked, "parked tasks to weigh, 0 for none")
	f.StringVar(&s.cores, "cores", "server=1,client=1", coresUsage)
	only := f.String("only", "", "run the scenarios whose ID matches this regexp (see: bench list)")
	contenders := f.String("contenders", "", "run the contenders whose name matches this regexp")
	f.StringVar(&s.out, "out", "bench-results", "directory for report.json and report.html")
	strace := f.String("strace", "auto", "auto counts the syscalls under strace where there is one, off does not")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(usage, "usage: bench [flags]\n       bench list")
			f.SetOutput(usage)
			f.PrintDefaults()
		}
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unknown argument %q (see: bench -h)", f.Arg(0))
	}
	switch {
	case *isQuick && *isFull:
		return nil, errors.New("-quick and -full exclude each other")
	case *isQuick:
		s.length = quick
	case *isFull:
		s.length = full
	}
	f.Visit(func(set *flag.Flag) {
		switch set.Name {
		case "rounds":
			s.rounds, s.tight = *rounds, *rounds
		case "window":
			s.window = *window
		case "parked":
			s.parked = *tasks
		case "contenders":
			s.few = false // who names contenders gets those
		}
	})
	if s.rounds < 1 || s.window < time.Millisecond || s.parked < 0 {
		return nil, errors.New("want -rounds of at least 1, -window of at least 1ms, -parked of at least 0")
	}
	if *strace != "auto" && *strace != "off" {
		return nil, fmt.Errorf("-strace %q: want auto or off", *strace)
	}
	if *strace == "off" {
		s.traced = 0
	}
	var err error
	if s.only, err = regexp.Compile(*only); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	if s.contenders, err = regexp.Compile(*contenders); err != nil {
		return nil, fmt.Errorf("-contenders: %w", err)
	}
	if s.few {
		s.note("a quick run: %d rounds of %v, and only %s", s.rounds, s.window, strings.Join(quickNames, ", "))
	}
	return s, nil
}

// mostBusy is the load at the start above which a run is warned about.
const mostBusy = 0.7

// busyAtStart is the load of the last minute, 0 where it is not known.
func busyAtStart(loadavg string) float64 {
	busy, err := strconv.ParseFloat(strings.SplitN(loadavg, " ", 2)[0], 64)
	if err != nil {
		return 0
	}
	return busy
}

func (s *settings) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// bench runs the scenarios and writes the reports.
func (s *settings) bench(ctx context.Context) (err error) {
	out, err := filepath.Abs(s.out)
	if err != nil {
		return err
	}
	dir, err := moduleDir()
	if err != nil {
		return err
	}
	// Programs are built in the module (see contend).
	if err := os.Chdir(dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "stepio-bench-tags-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp), contend.Cleanup()) }()

	cfg, err := s.config(ctx, tmp)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	machine := measure.Describe(ctx)
	progress := newProgress(os.Stderr, time.Now())
	cfg.Progress = func(what string, done, total time.Duration) {
		progress.tell(time.Now(), what, done, total)
	}
	r, runErr := suite.Run(ctx, cfg)
	progress.end()
	r.Machine = machine
	r.Command = strings.Join(append([]string{"bench"}, s.args...), " ")
	// Not under ctx: an interrupted run tells its commit as well.
	r.Commit = measure.Commit(context.WithoutCancel(ctx), filepath.Dir(dir))
	if total := time.Duration(s.rounds) * s.window; total <= usual.window*time.Duration(usual.rounds)/2 {
		s.note("%v of each contender in each scenario is too short to judge by: what is met and missed here says little", total)
	}
	if busy := busyAtStart(r.Machine.Load); busy > mostBusy {
		s.note("the load of the machine was %.2f at the start: figures are of no use while others work on it", busy)
	}
	r.Notes = append(s.notes, r.Notes...)
	if runErr != nil {
		if ctx.Err() != nil {
			runErr = errors.New("interrupted")
		}
		r.Notes = append(r.Notes, fmt.Sprintf("not complete: %v", runErr))
	}
	return errors.Join(runErr, write(r, out))
}

// config is the run that the settings ask for on this machine.
func (s *settings) config(ctx context.Context, tmp string) (*suite.Config, error) {
	have, err := measure.CPUs()
	if err != nil {
		return nil, err
	}
	servers, clients, err := pickCores(s.cores, have)
	if err != nil {
		return nil, err
	}
	if len(have) == 1 {
		s.note("there is one CPU: server and client share it, and latencies and throughput tell little")
	}
	files, err := measure.RaiseFiles()
	if err != nil {
		return nil, err
	}
	if s.traced > 0 {
		if err := measure.CanTrace(ctx); err != nil {
			s.traced = 0
			s.note("no syscalls are counted: %v", err)
		} else if s.traced < math.MaxInt {
			s.note("syscalls are counted with up to %d connections (-full counts them with more)", s.traced)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cfg := &suite.Config{
		Rounds:      s.rounds,
		RoundsTight: s.tight,
		Life:        s.life,
		Window:      s.window,
		ServerCores: servers,
		ClientCores: clients,
		TraceConns:  s.traced,
		Parked:      s.parked,
		Files:       int(min(files, 1<<30)),
		Server:      []string{self, "serve"},
		Load:        []string{self, "load"},
		Park:        []string{self, "parked"},
		Tagged: func(ctx context.Context, tags string) ([]string, error) {
			path, err := buildTagged(ctx, tmp, tags)
			return []string{path, "serve"}, err
		},
	}
	for _, c := range contend.All() {
		if s.takes(c.Name) {
			cfg.Contenders = append(cfg.Contenders, c)
		}
	}
	for _, scenario := range suite.Scenarios() {
		if s.only.MatchString(scenario.ID) {
			cfg.Scenarios = append(cfg.Scenarios, scenario)
		}
	}
	if len(cfg.Contenders) == 0 || len(cfg.Scenarios) == 0 {
		return nil, errors.New("-only and -contenders leave nothing to run (see: bench list)")
	}
	return cfg, nil
}

// takes says whether a contender of that name takes part.
func (s *settings) takes(name string) bool {
	if s.few {
		return slices.Contains(quickNames, name)
	}
	return s.contenders.MatchString(name)
}

// write computes the figures and writes the three forms of the report.
func write(r *result.Report, out string) error {
	var errs []error
	for i := range r.Scenarios {
		errs = append(errs, report.Summarize(&r.Scenarios[i]))
	}
	r.Claims = report.Claims(r)
	r.Notes = append(r.Notes, report.Doubts(r)...)
	errs = append(errs, report.Terminal(os.Stdout, r))
	for _, form := range []struct {
		name  string
		write func(io.Writer, *result.Report) error
	}{{"report.json", report.JSON}, {"report.html", report.HTML}} {
		path := filepath.Join(out, form.name)
		if err := writeFile(path, r, form.write); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Println(path)
	}
	return errors.Join(errs...)
}

func writeFile(path string, r *result.Report, form func(io.Writer, *result.Report) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(form(f, r), f.Close())
}

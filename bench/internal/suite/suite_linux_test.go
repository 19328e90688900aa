package suite

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/measure"
	"github.com/stepio-go/stepio/bench/internal/result"
)

// fake is a contender whose echo server is the fake of that kind.
func fake(name, kind string) contend.Contender {
	return contend.Contender{
		Name: name, About: "a fake", Limit: name == "C epoll", Mute: kind == "mute",
		Program: func(s contend.Service) ([]string, error) {
			if s != contend.Echo {
				return nil, nil
			}
			return []string{os.Args[0], "fake", kind}, nil
		},
	}
}

// config is a run of short windows.
func config(t *testing.T, contenders []contend.Contender, scenarios ...Scenario) *Config {
	t.Helper()
	cpus, err := measure.CPUs()
	require.NoError(t, err)
	return &Config{
		Contenders:  contenders,
		Scenarios:   scenarios,
		Rounds:      3,
		RoundsTight: 5,
		Window:      10 * time.Millisecond,
		ServerCores: cpus[:1],
		ClientCores: cpus[len(cpus)-1:],
		Files:       1000,
		Server:      []string{"/nonexistent/server"},
		Load:        []string{os.Args[0], "load"},
		Park:        []string{"/nonexistent/park"},
		Tagged: func(context.Context, string) ([]string, error) {
			return nil, errors.New("there are no tags here")
		},
		Progress: func(string, time.Duration, time.Duration) {},
		listen:   time.Second,
	}
}

func small(id string) Scenario { return tcpEcho(id, result.GroupEcho, 4, 64, 1) }

func TestRunMeasuresWhoServesAndTellsWhoFails(t *testing.T) {
	contenders := []contend.Contender{
		fake("stepio", "right"), fake("crashing", "crash"), fake("C epoll", "right"), fake("silent", "silent"),
		fake("wrong", "wrong"), fake("stalling", "stall"), fake("mute", "mute"),
		{Name: "tagged", Tags: "some", Starts: map[contend.Service]contend.Start{contend.Echo: echo(nil)}},
		{Name: "udp only", Starts: map[contend.Service]contend.Start{contend.EchoUDP: echo(nil)}},
		{Name: "unbuilt", Program: func(contend.Service) ([]string, error) { return nil, errors.New("no compiler") }},
	}
	cfg := config(t, contenders, small("echo"))
	if measure.CanTrace(t.Context()) == nil {
		cfg.TraceConns = 100
	}
	cfg.Rounds, cfg.Window = 4, 40*time.Millisecond // long enough for every fault to come
	var last string
	cfg.Progress = func(what string, done, total time.Duration) {
		require.LessOrEqual(t, done, total)
		last = what
	}
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Contains(t, last, "echo: ")
	require.Positive(t, r.Took)
	require.Equal(t, result.Settings{
		Window: cfg.Window, Rounds: cfg.Rounds, RoundsTight: cfg.RoundsTight, ServerCores: cfg.ServerCores, ClientCores: cfg.ClientCores,
	}, r.Settings)
	require.Len(t, r.Contend, 7)
	notes := strings.Join(r.Notes, "\n")
	require.Contains(t, notes, "tagged (echo): left out: there are no tags here")
	require.Contains(t, notes, "unbuilt (echo): left out: no compiler")

	require.Len(t, r.Scenarios, 1)
	rows := make(map[string]result.Row)
	for _, row := range r.Scenarios[0].Rows {
		rows[row.Contender] = row
	}
	require.Len(t, rows, 7)
	for _, name := range []string{"stepio", "C epoll", "mute"} {
		row := rows[name]
		require.Empty(t, row.Failure, name)
		require.Len(t, row.Samples, cfg.Rounds)
		for round, s := range row.Samples {
			requireWhole(t, s, round)
		}
		if cfg.TraceConns > 0 {
			require.InDelta(t, 1, row.Syscalls["write"], 0.1, "%v", row.Syscalls)
		}
	}
	require.Contains(t, rows["crashing"].Failure, "the server has had enough")
	require.Contains(t, rows["silent"].Failure, "does not listen")
	require.Contains(t, rows["silent"].Failure, "thinking about it")
	require.NotEmpty(t, rows["wrong"].Failure)
	require.Contains(t, rows["stalling"].Failure, "no answer")
	for _, name := range []string{"crashing", "silent", "wrong", "stalling"} {
		require.Less(t, len(rows[name].Samples), cfg.Rounds, name)
	}
}

// requireWhole says that a sample has everything.
func requireWhole(t *testing.T, s result.Sample, round int) {
	t.Helper()
	require.Equal(t, round, s.Round)
	require.Positive(t, s.Requests)
	require.Positive(t, s.Elapsed)
	require.Positive(t, s.CPU)
	require.Positive(t, s.Client)
	require.Positive(t, s.P50)
	require.LessOrEqual(t, s.P50, s.P99)
	require.LessOrEqual(t, s.P99, s.P999)
	require.Positive(t, s.ServerRSS)
	latency, err := hdrhistogram.Decode(s.LatencyHDR)
	require.NoError(t, err)
	require.Equal(t, s.Requests, latency.TotalCount())
}

func TestRunMeasuresABlockInTheSameRounds(t *testing.T) {
	alone, among := small(ActiveAlone), small(ActiveAmong)
	alone.Block, among.Block, among.Idle = "active", "active", 50
	alone.Only, among.Only = []string{"stepio"}, []string{"stepio"}
	var told []string
	cfg := config(t, []contend.Contender{
		fake("stepio", "right"), fake("other", "right"), fake("C epoll", "right"),
	}, alone, among)
	cfg.Progress = func(what string, _, _ time.Duration) {
		if strings.Contains(what, "round") {
			told = append(told, what)
		}
	}
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, []string{
		"active-100: round 1 of 3, stepio", "active-100-idle-15000: round 1 of 3, stepio",
		"active-100: round 1 of 3, C epoll", "active-100-idle-15000: round 1 of 3, C epoll",
		"active-100-idle-15000: round 2 of 3, C epoll", "active-100: round 2 of 3, C epoll",
		"active-100-idle-15000: round 2 of 3, stepio", "active-100: round 2 of 3, stepio",
		"active-100: round 3 of 3, stepio", "active-100-idle-15000: round 3 of 3, stepio",
		"active-100: round 3 of 3, C epoll", "active-100-idle-15000: round 3 of 3, C epoll",
	}, told)
	require.Len(t, r.Scenarios, 2)
	for _, s := range r.Scenarios {
		require.Len(t, s.Rows, 2)
		for _, row := range s.Rows {
			require.Empty(t, row.Failure)
			require.Len(t, row.Samples, 3)
		}
	}
}

func TestRunWeighsIdleConnections(t *testing.T) {
	s := small("density")
	s.Conns, s.Idle, s.Points = 0, 200, []int{10, 100, 200}
	r, err := Run(t.Context(), config(t, []contend.Contender{
		fake("stepio", "right"), fake("mute", "mute"), fake("crashing", "crash"), fake("silent", "silent"),
	}, s))
	require.NoError(t, err)
	require.Len(t, r.Scenarios, 1)
	rows := r.Scenarios[0].Rows
	require.Len(t, rows, 4)
	for i, row := range rows[:3] {
		require.Empty(t, row.Failure)
		require.Len(t, row.Density, 3)
		for j, point := range row.Density {
			require.Equal(t, s.Points[j], point.Conns)
			require.Positive(t, point.RSS)
		}
		if i == 1 {
			require.EqualValues(t, -1, row.Density[2].Go, "who is mute is not asked")
			continue
		}
		grown := row.Density[2].Go - row.Density[0].Go
		require.Greater(t, grown, int64(190*2048), "a goroutine's stack each")
	}
	require.Contains(t, rows[3].Failure, "does not listen")
	require.Empty(t, rows[3].Density)
}

func TestRunLeavesOutWhatNeedsTooManyFiles(t *testing.T) {
	large := small("large")
	large.Idle = 5000
	cfg := config(t, []contend.Contender{fake("stepio", "right")}, large, small("echo"))
	cfg.Rounds, cfg.Parked = 1, 10
	r, err := Run(t.Context(), cfg)
	require.ErrorContains(t, err, "/nonexistent/park", "the benchmark's own failure is its error")
	require.Len(t, r.Scenarios, 1)
	require.Equal(t, "echo", r.Scenarios[0].ID)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "large: left out")
}

func TestRunWithoutContendersIsAnError(t *testing.T) {
	_, err := Run(t.Context(), config(t, nil, small("echo")))
	require.ErrorContains(t, err, "no contender")
}

func TestRunThatIsInterruptedEndsItsChildren(t *testing.T) {
	for _, when := range []string{"starting C epoll", "round 2", "syscalls"} {
		t.Run(when, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv(pidDir, dir)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cfg := config(t, []contend.Contender{fake("stepio", "right"), fake("C epoll", "mute")}, small("echo"), small("next"))
			cfg.Window, cfg.TraceConns = 50*time.Millisecond, 100
			cfg.Progress = func(what string, _, _ time.Duration) {
				if strings.Contains(what, when) {
					// In the middle of what comes next.
					time.AfterFunc(20*time.Millisecond, cancel)
				}
			}
			r, err := Run(ctx, cfg)
			require.ErrorIs(t, err, context.Canceled)
			require.Len(t, r.Scenarios, 1, "what there is, and no more")
			for _, row := range r.Scenarios[0].Rows {
				require.Empty(t, row.Failure, "an interruption is nobody's failure")
			}
			files, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.NotEmpty(t, files)
			for _, f := range files {
				pid, err := strconv.Atoi(f.Name())
				require.NoError(t, err)
				require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "process %d", pid)
			}
		})
	}
}

func TestRunStartsEverybodyAnewAfterALife(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(pidDir, dir)
	cfg := config(t, []contend.Contender{fake("stepio", "right"), fake("C epoll", "right"), fake("silent", "silent")}, small("echo"))
	cfg.Rounds, cfg.Life, cfg.Window = 5, 2, 40*time.Millisecond
	if measure.CanTrace(t.Context()) == nil {
		cfg.TraceConns = 100
	}
	var starts []string
	cfg.Progress = func(what string, _, _ time.Duration) {
		if name, ok := strings.CutPrefix(what, "echo: starting "); ok {
			starts = append(starts, name)
		}
	}
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, cfg.Life, r.Settings.Life)
	for _, row := range r.Scenarios[0].Rows[:2] {
		require.Empty(t, row.Failure, row.Contender)
		require.Len(t, row.Samples, 5, "one row for all lives")
		for round, s := range row.Samples {
			requireWhole(t, s, round)
		}
		require.Equal(t, cfg.TraceConns > 0, row.Syscalls != nil, "the last life is traced")
	}
	require.Contains(t, r.Scenarios[0].Rows[2].Failure, "does not listen")
	require.Equal(t, []string{"stepio", "C epoll", "silent"}, starts[:3])
	require.ElementsMatch(t, []string{"stepio", "C epoll", "stepio", "C epoll"}, starts[3:], "who has failed is not started again")
	require.Equal(t, "C epoll", starts[3], "it is not always the same who comes first")
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 3*2*2+1, "a server and a client in each life, and the one that is silent")
}

func TestRunTakesMoreWindowsOfATightScenario(t *testing.T) {
	loose, tight := small("loose"), small("tight")
	tight.Tight = true
	cfg := config(t, []contend.Contender{fake("stepio", "right")}, loose, tight)
	r, err := Run(t.Context(), cfg)
	require.NoError(t, err)
	require.Len(t, r.Scenarios, 2)
	require.Len(t, r.Scenarios[0].Rows[0].Samples, cfg.Rounds)
	require.Len(t, r.Scenarios[1].Rows[0].Samples, cfg.RoundsTight)
	require.NotEqual(t, cfg.Rounds, cfg.RoundsTight)
}

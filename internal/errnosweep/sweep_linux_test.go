package errnosweep

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

var (
	all  = flag.Bool("all", false, "hit the first three calls of each name, the last, the first of each activity, and all from the second on")
	only = flag.String("only", "", "sweep one syscall alone")
)

// probeEnv makes the test binary a probe: loop or wakes.
const probeEnv = "STEPIO_ERRNOSWEEP_PROBE"

// bound is how long a probe may take: all its activities' patience, nearly.
const bound = 12 * time.Second

// init keeps the probe on the thread that strace follows.
func init() {
	if os.Getenv(probeEnv) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	switch os.Getenv(probeEnv) {
	case "":
		flag.Parse()
		os.Exit(m.Run())
	case "wakes":
		report(probeWakes())
	default:
		report(probe())
	}
}

// report prints from another thread than that whose calls may fail.
func report(lines []string) {
	done := make(chan error)
	go func() {
		_, err := fmt.Println(strings.Join(lines, "\n"))
		done <- err
	}()
	if err := <-done; err != nil {
		panic(err)
	}
}

// trial is one run of the probe.
type trial struct {
	of    documented
	errno string
	n     int  // the n-th of the library's calls is hit
	on    bool // and all after it
}

func (c trial) String() string {
	if c.on {
		return fmt.Sprintf("%s %s from call %d on", c.of.call, c.errno, c.n)
	}
	return fmt.Sprintf("%s %s call %d", c.of.call, c.errno, c.n)
}

// outcome is what a probe has said, and strace of it.
type outcome struct {
	lines   map[string][]string // fields by the line's name
	text    string
	log     string
	injured int // the segment that was hit: 0 before the first activity, -1 when none was
}

// run runs the probe under strace with the options, which say what to trace.
func run(t *testing.T, call string, options ...string) outcome {
	log := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, "strace", slices.Concat([]string{"-qq", "-o", log}, options, []string{self})...)
	mode := "loop"
	if call == wakeCall {
		mode = "wakes"
	}
	cmd.Env = append(os.Environ(), probeEnv+"="+mode, "GOGC=off", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=2")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	out := outcome{lines: map[string][]string{}, text: string(stdout) + stderr.String(), injured: -1}
	if err != nil {
		if strings.Contains(out.text, "PTRACE") {
			t.Skip("SKIPPED: strace may not trace here: " + out.text)
		}
		t.Errorf("the probe: %v (bound %v)\n%s", err, bound, out.text)
	}
	assert.Empty(t, stderr.String(), "a quiet standard error")
	for line := range strings.Lines(string(stdout)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		out.lines[fields[0]] = fields[1:]
	}
	raw, err := os.ReadFile(log)
	require.NoError(t, err)
	out.log = string(raw)
	marks := 0
	for line := range strings.Lines(out.log) {
		if strings.HasPrefix(line, "getppid(") {
			marks++
		}
		if strings.Contains(line, "(INJECTED)") {
			out.injured = marks - 1
		}
	}
	return out
}

// calls is what a dry run has found of one name.
type calls struct {
	before int   // made before the first mark, by the Go runtime
	total  int   // made between the first mark and the last
	firsts []int // the first of each segment, counted from the first mark
}

// count finds the calls in the log of a dry run.
func count(log string) map[string]calls {
	found := map[string]calls{}
	segment, seen := 0, map[string]int{} // by name: the last segment with one
	last := strings.Count(log, "getppid(")
	for line := range strings.Lines(log) {
		name, _, _ := strings.Cut(line, "(")
		c := found[name]
		switch {
		case name == "getppid":
			segment++
		case segment == 0:
			c.before++
		case segment < last:
			c.total++
			if seen[name] < segment {
				seen[name] = segment
				c.firsts = append(c.firsts, c.total)
			}
		}
		found[name] = c
	}
	return found
}

// The thread that strace follows makes the calls of one loop, or of whoever
// wakes it, and none of the Go runtime: so those are what is hit.
func TestOnlyTheLibraryIsHit(t *testing.T) {
	mayTrace(t)
	number := func(text string) string {
		fields := strings.Fields(text)
		return fields[len(fields)-1]
	}
	for mode, traced := range map[string]string{
		"loop":   "epoll_create1,eventfd2,epoll_pwait,epoll_ctl,write,read",
		wakeCall: "epoll_create1,eventfd2,write,read",
	} {
		log := run(t, mode, "-e", "trace=getppid,"+traced).log
		_, log, marked := strings.Cut(log, "getppid(")
		require.True(t, marked)
		log, _, _ = strings.Cut(log, "exit")
		log = log[:strings.LastIndex(log, "getppid(")+1]
		made := map[string][]string{}
		for line := range strings.Lines(log) {
			name, _, _ := strings.Cut(line, "(")
			made[name] = append(made[name], strings.TrimSpace(line))
		}
		if mode == wakeCall {
			assert.Empty(t, made["epoll_create1"], "the loop is made before the first mark")
			assert.Len(t, made["write"], wakes+1, "one for each post, and one for Stop")
			continue
		}
		require.Len(t, made["epoll_create1"], 1)
		require.Len(t, made["eventfd2"], 1)
		ours := number(made["epoll_create1"][0])
		for _, wait := range made["epoll_pwait"] {
			assert.True(t, strings.HasPrefix(wait, "epoll_pwait("+ours+","), wait)
		}
		foreign := 0
		for _, ctl := range made["epoll_ctl"] {
			if !strings.HasPrefix(ctl, "epoll_ctl("+ours+",") {
				assert.Contains(t, ctl, "EPOLL_CTL_DEL")
				foreign++
			}
		}
		assert.Equal(t, 1, foreign, "net's, which closes the connection that Adopt takes over")
		assert.Empty(t, made["write"])
		assert.Empty(t, made["read"])
	}
}

// mayTrace skips the test where there is no strace, or it would see other calls
// than those of production.
func mayTrace(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("SKIPPED: strace is not installed (Debian: apt-get install strace)")
	}
	if raceDetector {
		t.Skip("SKIPPED: under the race detector the library makes other calls than in production")
	}
}

// TestLibraryAnswersEveryErrno is the sweep.
func TestLibraryAnswersEveryErrno(t *testing.T) {
	mayTrace(t)
	var trials []trial
	before := map[string]int{}
	for _, mode := range []string{"loop", wakeCall} {
		dry := run(t, mode)
		for name, fields := range dry.lines {
			if name != lineDescriptors && name != lineTasks {
				require.Equal(t, []string{"ok"}, fields, "%s, with nothing injected", name)
			}
		}
		require.Equal(t, []string{"0"}, dry.lines[lineDescriptors], dry.text)
		found := count(dry.log)
		for _, d := range table {
			if (d.call == wakeCall) != (mode == wakeCall) {
				continue
			}
			before[d.call] = found[d.call].before
			require.NotZero(t, found[d.call].total, "the probe makes no %s:\n%s", d.call, dry.log)
			if *only == "" || *only == d.call {
				trials = append(trials, trialsOf(d, found[d.call])...)
			}
		}
	}
	begun := time.Now()
	results := make([]string, len(trials))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for i := range next {
				t.Run(trials[i].String(), func(t *testing.T) { results[i] = try(t, trials[i], before) })
			}
		})
	}
	for i := range trials {
		next <- i
	}
	close(next)
	workers.Wait()
	t.Logf("%d runs in %.1f s\n%s", len(trials), time.Since(begun).Seconds(), summary(trials, results))
}

// trialsOf is what to try of a call.
func trialsOf(d documented, c calls) (trials []trial) {
	positions := []int{1}
	if *all {
		positions = append(c.firsts, 1, min(2, c.total), min(3, c.total), c.total)
		slices.Sort(positions)
		positions = slices.Compact(positions)
	}
	for _, errno := range d.list() {
		for _, n := range positions {
			trials = append(trials, trial{d, errno, n, false})
		}
		// What is to be tried again at once, or after a rest, would be for ever.
		if *all && errno != "EINTR" && (d.call == wakeCall || d.answerTo(errno, false) != mayHeal) {
			trials = append(trials, trial{d, errno, min(2, c.total), true})
		}
	}
	return trials
}

// try runs one trial. The result is one of: failed, healed, expired, ended (Run
// has), missed (the probe made fewer calls than in the dry run).
func try(t *testing.T, c trial, before map[string]int) string {
	inject := fmt.Sprintf("inject=%s:error=%s:when=%d", c.of.call, c.errno, before[c.of.call]+c.n)
	if c.on {
		inject += "+"
	}
	out := run(t, c.of.call, "-e", "trace=getppid,"+c.of.call, "-e", inject)
	if out.injured < 0 {
		// How often a loop waits and looks depends on the machine's timing.
		assert.Greater(t, c.n, 3, "nothing was injected:\n%s", out.log)
		return "missed"
	}
	for _, name := range []string{lineLoop, lineDescriptors} {
		require.Contains(t, out.lines, name, out.text)
	}
	leaked, err := strconv.Atoi(out.lines[lineDescriptors][0])
	require.NoError(t, err)
	// strace has not let those through that fail.
	most := 0
	if c.of.call == "close" {
		most = strings.Count(out.log, "(INJECTED)")
	}
	assert.LessOrEqual(t, leaked, most, "descriptors left open:\n%s", out.text)
	if c.of.call == wakeCall {
		return judgeRest(t, c, out, "")
	}
	if c.on {
		return judgeAll(t, c, out)
	}
	return judge(t, c, out)
}

// judgeAll looks at a run in which the call has failed time and again: whoever
// fails says so, and everything comes to an end.
func judgeAll(t *testing.T, c trial, out outcome) (result string) {
	result = "healed"
	for _, name := range slices.Concat([]string{lineLoop, lineRun, lineClose}, names()) {
		fields := out.lines[name]
		if fields == nil && out.lines[lineLoop][0] != "ok" {
			continue
		}
		require.NotEmpty(t, fields, "no outcome of %s:\n%s", name, out.text)
		if fields[0] == notFinished {
			assert.True(t, out.lines[lineLoop][0] != "ok" || out.lines[lineRun][0] != "ok", out.text)
			continue
		}
		if r := verdict(t, c, out, name, c.of.answerTo(c.errno, true)|mayFail|mayHeal); r != "healed" {
			result = r
		}
	}
	return result
}

// names are those of the activities.
func names() (all []string) {
	for _, a := range activities {
		all = append(all, a.name)
	}
	return all
}

// judge looks at the outcome of every activity.
func judge(t *testing.T, c trial, out outcome) (result string) {
	if out.lines[lineLoop][0] != "ok" { // there is no loop: nothing else was done
		assert.Zero(t, out.injured)
		return verdict(t, c, out, lineLoop, mayFail)
	}
	if i := out.injured; i >= 1 && i <= len(activities) {
		hit := activities[i-1]
		allowed := c.of.answerTo(c.errno, hit.edge)
		if allowed == endsRun {
			return judgeEnded(t, c, out, i-1)
		}
		result = verdict(t, c, out, hit.name, allowed)
		judgeRest(t, c, out, hit.name)
		return result
	}
	// Before the first activity, or after the last: Run or Close tell.
	if c.of.answerTo(c.errno, false) == endsRun && out.injured == 0 {
		return judgeEnded(t, c, out, 0)
	}
	judgeFirst(t, out, len(activities))
	result = "healed"
	for _, name := range []string{lineRun, lineClose} {
		if out.lines[name][0] != "ok" {
			result = verdict(t, c, out, name, mayFail)
		}
	}
	if c.errno == "EINTR" {
		assert.Equal(t, "healed", result, out.text)
	} else {
		assert.Equal(t, "failed", result, out.text)
	}
	return result
}

// judgeEnded sees to it that Run has returned the error in the midst of the
// n-th activity, and that Close closed what was left.
func judgeEnded(t *testing.T, c trial, out outcome, n int) string {
	judgeFirst(t, out, n)
	for _, a := range activities[n:] {
		assert.Equal(t, []string{notFinished}, out.lines[a.name], "%s:\n%s", a.name, out.text)
	}
	verdict(t, c, out, lineRun, mayFail)
	assert.Equal(t, []string{"ok"}, out.lines[lineClose], out.text)
	return "ended"
}

// judgeFirst sees to it that the first n activities were not disturbed.
func judgeFirst(t *testing.T, out outcome, n int) {
	for _, a := range activities[:n] {
		assert.Equal(t, []string{"ok"}, out.lines[a.name], "%s:\n%s", a.name, out.text)
	}
}

// judgeRest sees to it that no line but that of hit tells of a failure.
func judgeRest(t *testing.T, c trial, out outcome, hit string) string {
	want := strconv.Itoa(len(activities))
	if c.of.call == wakeCall {
		want = strconv.Itoa(wakes)
	}
	assert.Equal(t, []string{want}, out.lines[lineTasks], out.text)
	for name, fields := range out.lines {
		if name != hit && name != lineDescriptors && name != lineTasks {
			assert.Equal(t, []string{"ok"}, fields, "%s:\n%s", name, out.text)
		}
	}
	return "healed"
}

// verdict holds the line against what is allowed.
func verdict(t *testing.T, c trial, out outcome, name string, allowed answer) string {
	fields := out.lines[name]
	require.NotEmpty(t, fields, "no outcome of %s:\n%s", name, out.text)
	switch {
	case fields[0] == "ok":
		assert.NotZero(t, allowed&mayHeal, "%s succeeded although a call has failed:\n%s%s", name, out.text, out.log)
		return "healed"
	case len(fields) < 3:
		t.Errorf("%s: %s\n%s", name, fields[0], out.text)
	case strings.HasSuffix(fields[2], errPatience.Error()), strings.HasSuffix(fields[2], "i/o timeout"):
		assert.NotZero(t, allowed&mayExpire, "%s stopped until its deadline:\n%s%s", name, out.text, out.log)
		return "expired"
	default:
		assert.NotZero(t, allowed&mayFail, "%s is not to fail: %s", name, fields[2])
		assert.True(t, c.of.names(fields[0]), "%s: the error does not name the call: %q", name, fields)
		assert.Contains(t, c.of.shown(c.errno), fields[1], "%s: the error is not the errno: %q", name, fields)
	}
	return "failed"
}

// summary is the table of the sweep.
func summary(trials []trial, results []string) string {
	kinds := []string{"failed", "healed", "expired", "ended", "missed"}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "syscall\tmanual page\terrnos\truns\t"+strings.Join(kinds, "\t")+"\twrong")
	for _, d := range table {
		counts, runs := map[string]int{}, 0
		for i, c := range trials {
			if c.of.call == d.call {
				counts[results[i]]++
				runs++
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d", d.call, d.page, len(d.list()), runs)
		for _, k := range kinds {
			fmt.Fprintf(w, "\t%d", counts[k])
		}
		fmt.Fprintf(w, "\t%d\n", counts[""])
	}
	if err := w.Flush(); err != nil {
		return err.Error() // a strings.Builder has none
	}
	return b.String()
}

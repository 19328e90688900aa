package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// none stands for a figure that there is not.
const none = "-"

// micros writes nanoseconds as microseconds with three digits or more.
func micros(ns float64) string { return digits(ns / 1e3) }

// digits writes a number with three digits or more, thousands apart.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case a < 0.9995:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case a < 9.995:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case a < 99.95:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return thousands(v)
	}
}

// thousands writes a whole number as 1,234,567.
func thousands(v float64) string {
	s := strconv.FormatFloat(math.Abs(v), 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v <= -0.5 {
		return "-" + s
	}
	return s
}

func count(n int) string { return thousands(float64(n)) }

// median writes the median of a figure, or that there is none.
func median(s result.Stat, write func(float64) string) string {
	if s.N == 0 {
		return none
	}
	return write(s.Median)
}

// spread writes the least and the greatest of a figure.
func spread(s result.Stat, write func(float64) string) string {
	if s.N == 0 {
		return none
	}
	return "[" + write(s.Min) + "-" + write(s.Max) + "]"
}

func ratioText(v float64) string   { return strconv.FormatFloat(v, 'f', 2, 64) }
func percentText(v float64) string { return strconv.FormatFloat(100*v, 'f', 0, 64) + " %" }

// size writes bytes as a message size: 64 B, 4 KiB.
func size(bytes int) string {
	if bytes >= 1024 && bytes%1024 == 0 {
		return count(bytes/1024) + " KiB"
	}
	return count(bytes) + " B"
}

// gibibytes writes an amount of memory in GiB.
func gibibytes(bytes int64) string {
	return strconv.FormatFloat(float64(bytes)/(1<<30), 'f', 1, 64) + " GiB"
}

// plural writes n of a thing: 1 connection, 1,000 connections.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many(one)
}

// many is the plural of a unit.
func many(one string) string {
	if stem, ok := strings.CutSuffix(one, "y"); ok {
		return stem + "ies"
	}
	return one + "s"
}

// unit is what a request is called.
func unit(s *result.Scenario) string {
	if s.Unit == "" {
		return "request"
	}
	return s.Unit
}

// oneLine keeps a text from another process to one printable line.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut shortens a text to n characters.
func cut(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-3]) + "..."
}

// beats says in how many rounds a contender took less CPU than stepio, when the
// median of its ratios is below 1.00 as it is printed; otherwise it is empty. The
// count of rounds is there to tell a difference from noise.
func beats(s *result.Scenario, row *result.Row) string {
	if row.CPUToStepio.N == 0 || row.CPUToStepio.Median >= 0.995 {
		return ""
	}
	own, _ := references(row.Contender)
	rs := ratios(row, findRow(s, own), cpuOf)
	less := 0
	for _, r := range rs {
		if r < 1 {
			less++
		}
	}
	return fmt.Sprintf("%d/%d rounds", less, len(rs))
}

// aCall is a system call and how often a request makes it.
type aCall struct {
	name  string
	times float64
}

// ofTheClock are the calls that the Go runtime makes as time passes, and not as
// requests come: its monitor sleeps, and preempts by a signal what runs longer
// than 10 ms. strace makes requests take several times as long, so a request would
// seem to make several times as many of them.
var ofTheClock = []string{"nanosleep", "restart_syscall", "sched_yield", "tgkill", "getpid", "rt_sigreturn"}

// calls returns the system calls of a row, the most frequent first, and their
// sum, both without those of the clock.
func calls(row *result.Row) (list []aCall, sum float64) {
	for _, name := range byWeight(row.Syscalls) {
		if slices.Contains(ofTheClock, name) {
			continue
		}
		list = append(list, aCall{name, row.Syscalls[name]})
		sum += row.Syscalls[name]
	}
	return list, sum
}

func callSum(row *result.Row) string {
	if len(row.Syscalls) == 0 {
		return none
	}
	_, sum := calls(row)
	return ratioText(sum)
}

// failedRounds says which windows of a row failed, "" when none did.
func failedRounds(row *result.Row) string {
	var texts []string
	for _, s := range row.Samples {
		if s.Failure != "" {
			texts = append(texts, fmt.Sprintf("round %d: %s", s.Round, oneLine(s.Failure)))
		}
	}
	if texts == nil {
		return ""
	}
	return fmt.Sprintf("failed in %d of %d rounds, the figures are of the others; %s",
		len(texts), len(row.Samples), strings.Join(texts, "; "))
}

// failure says why a row has no figures to show, "" when it has them. A row that
// failed shows none, whatever windows went well before: they are in the JSON.
func failure(row *result.Row) string {
	switch {
	case row.Failure != "":
		text := "FAILED: " + oneLine(row.Failure)
		if n := len(figures(row.Samples, throughputOf)); n > 0 {
			text = fmt.Sprintf("FAILED after %s: %s", plural(n, "window"), oneLine(row.Failure))
		}
		return text
	case len(row.Samples) > 0 && len(figures(row.Samples, throughputOf)) == 0:
		return strings.Replace(failedRounds(row), "failed", "FAILED", 1)
	case len(row.Samples) == 0 && len(row.Density) == 0:
		return "not measured"
	}
	return ""
}

// claimState is met, missed or not measured.
func claimState(c result.Claim) string {
	switch {
	case !c.Known:
		return "not measured"
	case c.Met:
		return "met"
	}
	return "missed"
}

// claimFigure writes a claim's value or bound in its unit.
func claimFigure(v float64, unit string) string {
	if unit == "" {
		return ratioText(v)
	}
	return digits(v) + " " + unit
}

func claimValue(c result.Claim) string {
	if !c.Known {
		return none
	}
	text := claimFigure(c.Value, c.Unit)
	if !c.Met && text == claimFigure(c.Bound, c.Unit) {
		return fmt.Sprintf("%.5g %s", c.Value, c.Unit) // rounding would hide why it is missed
	}
	return text
}

// claimInterval writes a claim's confidence interval, "" when it has none.
func claimInterval(c result.Claim) string {
	if c.High == 0 {
		return ""
	}
	return claimFigure(c.Low, c.Unit) + "-" + claimFigure(c.High, c.Unit)
}

// tally counts the claims by their state.
func tally(claims []result.Claim) string {
	n := make(map[string]int)
	for _, c := range claims {
		n[claimState(c)]++
	}
	return fmt.Sprintf("%d met, %d missed, %d not measured", n["met"], n["missed"], n["not measured"])
}

// describe says in a sentence what a scenario measures.
func describe(s *result.Scenario) string {
	if s.Group != result.GroupDensity {
		return load(s)
	}
	return "Connections are opened; each exchanges one message and then does nothing. Resident memory is the " +
		"server's, the kernel's socket buffers not counted; Go memory is heap and stacks after a full collection. " +
		"The slope is what each connection between the second and the last count adds."
}

func load(s *result.Scenario) string {
	switch s.Group {
	case result.GroupPaced:
		return fmt.Sprintf("Messages of %s go out at a steady rate, on each of %s in turn, whatever the server does; it "+
			"is idle most of the time. Every byte that comes back is verified. A message that is held up by a missing answer "+
			"counts from its turn. The client does not sleep in between.", size(s.Size), plural(s.Conns, "connection"))
	case result.GroupChurn:
		return fmt.Sprintf("%s at a time: each connects, exchanges one message of %s and is closed by a reset; "+
			"a %s is all of that.", plural(s.Conns, "connection"), size(s.Size), unit(s))
	case result.GroupUDP:
		return fmt.Sprintf("%s keep %s of %s under way each; every one that comes back is verified, and what is "+
			"lost is counted and sent again. %s and %s move datagrams in batches and are compared with each other, "+
			"in the columns /stepio and /C too.", plural(s.Conns, "socket"), plural(s.Depth, "datagram"), size(s.Size),
			stepioBatch, limitBatch)
	case result.GroupHTTP:
		return fmt.Sprintf("%s keep %s for /hello under way each; status and body are verified.",
			plural(s.Conns, "keep-alive connection"), plural(s.Depth, "request"))
	case result.GroupFanout:
		return fmt.Sprintf("A publisher sends messages of %s to %s; the next goes out when every one has the last. "+
			"A %s is one message at one subscriber, its latency counted from the send.",
			size(s.Size), plural(s.Conns, "subscriber"), unit(s))
	}
	among := ""
	if s.Idle > 0 {
		among = ", among " + plural(s.Idle, "connection") + " that do nothing"
	}
	conns := "1 connection keeps"
	if s.Conns != 1 {
		conns = count(s.Conns) + " connections each keep"
	}
	return fmt.Sprintf("%s %s of %s under way%s; the server sends back all that it gets, and every byte is verified.",
		conns, plural(s.Depth, "message"), size(s.Size), among)
}

// field is a name and its value, of the machine and the like.
type field struct{ Name, Value string }

// machine describes where and how a report was made.
func machine(r *result.Report) []field {
	m := r.Machine
	where := m.Virtual
	if where == "" {
		where = "no hypervisor seen" // arm64 has no flag for it
	}
	return []field{
		{"machine", fmt.Sprintf("%s, %s, %s, %s", m.CPU, plural(m.CPUs, "CPU"), gibibytes(m.MemoryBytes), where)},
		{"system", fmt.Sprintf("%s, Linux %s, clock source %s, congestion control %s, load at the start %s",
			m.OS, m.Kernel, m.ClockSource, m.Congestion, m.Load)},
		{"compilers", fmt.Sprintf("%s; %s", m.Go, m.CC)},
		{"settings", fmt.Sprintf("%s of %v for each contender%s, servers on CPU %s, client on CPU %s",
			windows(r.Settings), r.Settings.Window, anew(r.Settings), cores(r.Settings.ServerCores), cores(r.Settings.ClientCores))},
		{"run", fmt.Sprintf("%s, commit %s, started %s, took %v", r.Command, r.Commit,
			r.Started.Format("2006-01-02 15:04 MST"), r.Took.Round(time.Second))},
	}
}

// windows says how many there are in each scenario.
func windows(s result.Settings) string {
	text := plural(s.Rounds, "window")
	if s.RoundsTight != s.Rounds {
		text += fmt.Sprintf(" (%d where promises are tight)", s.RoundsTight)
	}
	return text
}

// anew says when servers are started anew; nothing when they live as long as there are rounds.
func anew(s result.Settings) string {
	if s.Life == 0 || s.Life >= max(s.Rounds, s.RoundsTight) {
		return ""
	}
	return fmt.Sprintf(", all started anew after %s at most", plural(s.Life, "window"))
}

func cores(list []int) string {
	texts := make([]string, len(list))
	for i, c := range list {
		texts[i] = strconv.Itoa(c)
	}
	return strings.Join(texts, ",")
}

// parkedFields are the figures of the parked tasks.
func parkedFields(p *result.Parked) []field {
	return []field{
		{"parked tasks", count(p.Tasks)},
		{"Go heap a task", digits(p.HeapTask) + " B"},
		{"resident memory a task", digits(p.RSSTask) + " B"},
		{"for comparison: resident memory a goroutine that waits on a channel", digits(p.Goroutine) + " B"},
		{"full garbage collection: CPU time", digits(milliseconds(p.GCCPU)) + " ms"},
		{"full garbage collection: time it took", digits(milliseconds(p.GCWall)) + " ms"},
		{"full garbage collection: longest pause of the program", digits(milliseconds(p.GCPause)) + " ms"},
		{"to wake, step and park all of them once: CPU time a task", digits(float64(p.WakeTask)) + " ns"},
		{"to wake, step and park all of them once: allocations a task", digits(p.AllocWake)},
	}
}

package hostile

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/testseed"
)

// Resets in every state of a server's connections leave nothing behind, are
// taken for what they are, and cost a client that behaves little.
func TestServerOutlivesResetsInEveryState(t *testing.T) {
	seed := testseed.Rand(t).Uint64()
	server, hello := startServer(t, serverConfig{Lazy: true})
	resetter := startClient(t, "resetter", resetterConfig{Server: hello, Seed: seed})
	polite := startClient(t, "pinger", pingerConfig{Addr: hello.Level, Conns: 1, Interval: time.Millisecond})
	run := func(n int) (r resets) {
		resetter.send(resetterCommand{N: n})
		resetter.receive(&r)
		require.Empty(t, r.Error)
		return r
	}

	alone := polite.ping(window(300 * time.Millisecond))
	require.Zero(t, alone.Lost)
	const warmUp = 2000
	run(warmUp) // for the memory that a busy server keeps
	settled := func(opened int) serverStat {
		server.eventually("all connections have ended", func(s serverStat) bool { return s.Opened == opened && s.Closed == opened-1 })
		return server.ask("collect", 0)
	}
	before := settled(warmUp + 1)

	n := size(100_000, 5000)
	begun := time.Now()
	resetter.send(resetterCommand{N: n})
	// The polite one is served meanwhile, in windows until the resetter is done.
	done := make(chan resets, 1)
	go func() {
		var r resets
		if err := resetter.dec.Decode(&r); err != nil {
			r.Error = err.Error()
		}
		done <- r
	}()
	var beside []pings
	var r resets
	for over := false; !over; {
		beside = append(beside, polite.ping(window(300*time.Millisecond)))
		require.Less(t, time.Since(begun), mostAnswering, "the resetter does not come to an end")
		select {
		case r = <-done:
			over = true
		default:
		}
	}
	require.Empty(t, r.Error)
	after := settled(warmUp + 1 + n)

	name := fmt.Sprintf("%d resets in %d states", n, len(resetStates))
	t.Logf("%d resets in %v, by state: %v; resetter's CPU %.2f; server's CPU %v in %v",
		n, r.Took.Round(time.Millisecond), r.Of, r.CPU, after.CPU-before.CPU, time.Since(begun).Round(time.Millisecond))
	for _, s := range resetStates {
		assert.Positive(t, r.Of[s.name], s.name)
	}
	assert.Positive(t, after.DeadOnArrival-before.DeadOnArrival, "or none was reset before it was looked at")
	behaves(t, name+": each is seen as one", fmt.Sprintf("%d, %d as the end of input, %d as another error",
		after.Ends["reset"]-before.Ends["reset"], after.Ends["end of input"], after.Ends["another error"]),
		"all, 0, 0", after.Ends["reset"]-before.Ends["reset"] == n && after.Ends["end of input"]+after.Ends["another error"] == 0)
	behaves(t, name+": tasks, descriptors, registrations left", fmt.Sprintf("%d, %d, %d",
		after.Tasks-before.Tasks, after.FDs-before.FDs, after.Registrations-before.Registrations), "0, 0, 0",
		after.Tasks == before.Tasks && after.FDs == before.FDs && after.Registrations == before.Registrations)
	behaves(t, name+": frames closed twice", fmt.Sprint(after.Twice), "0", after.Twice == 0)
	behaves(t, name+": reports of failures", fmt.Sprint(len(after.Reports)), "0", len(after.Reports) == 0)
	lost := 0
	for _, p := range beside {
		lost += p.Lost
	}
	slices.SortFunc(beside, func(a, b pings) int { return cmp.Compare(a.P99, b.P99) })
	usual, worst := beside[len(beside)/2].P99, beside[len(beside)-1].P99
	behaves(t, name+": pings lost of a client that behaves", fmt.Sprint(lost), "0", lost == 0)
	figure(name+": resets a second", fmt.Sprintf("%.0f", float64(n)/r.Took.Seconds()), "", true)
	figure(name+": p99 of a client that behaves, before, meanwhile (median window), worst window",
		fmt.Sprintf("%s, %s, %s", micros(alone.P99), micros(usual), micros(worst)), "", true)
	heap, rss := after.Heap-before.Heap, after.RSS-before.RSS
	grown := fmt.Sprintf("%+d KiB to %d KiB, %+d KiB to %d KiB", heap>>10, after.Heap>>10, rss>>10, after.RSS>>10)
	if raceDetector {
		figure(name+": live heap, resident memory", grown, "", true)
		return
	}
	// What the runtime keeps of its own moves by some MiB with the load of the
	// machine, however many resets there were: with the promised number it counts for less.
	mostRSS := size(2, 8) << 20
	behaves(t, name+": live heap, resident memory", grown, fmt.Sprintf("at most +256, +%d KiB", mostRSS>>10), heap <= 256<<10 && rss <= mostRSS)
}

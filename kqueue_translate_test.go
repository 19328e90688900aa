//go:build darwin || kqsim

package stepio

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/sm"
)

func TestKqueueChanges(t *testing.T) {
	const fd, key = 7, 3<<32 | 7
	const both = sm.Read | sm.Write
	deleted := func(filter int16) kevent {
		return kevent{Ident: fd, Filter: filter, Flags: evDelete | evReceipt, Udata: key}
	}
	level := func(filter int16) kevent {
		return kevent{Ident: fd, Filter: filter, Flags: evAdd | evReceipt, Udata: key}
	}
	edgeRead := kevent{Ident: fd, Filter: evfiltRead, Flags: evAdd | evClear | evReceipt, Fflags: noteOOB, Udata: key}
	edgeWrite := kevent{Ident: fd, Filter: evfiltWrite, Flags: evAdd | evClear | evReceipt, Udata: key}

	for _, tc := range []struct {
		name      string
		was, dirs sm.Dir
		edge      bool
		switched  bool
		want      []kevent
	}{
		{name: "a new registration for reading adds one filter",
			dirs: sm.Read, want: []kevent{level(evfiltRead)}},
		{name: "a new registration for writing adds one filter",
			dirs: sm.Write, want: []kevent{level(evfiltWrite)}},
		{name: "a new registration for both adds two filters",
			dirs: both, want: []kevent{level(evfiltRead), level(evfiltWrite)}},
		{name: "an edge-triggered registration asks for urgent data when reading only",
			dirs: both, edge: true, want: []kevent{edgeRead, edgeWrite}},
		{name: "a growing registration adds once more what it has, lest it was lost",
			was: sm.Read, dirs: both, want: []kevent{level(evfiltRead), level(evfiltWrite)}},
		{name: "a growing edge-triggered registration keeps asking for urgent data",
			was: sm.Read, dirs: both, edge: true, want: []kevent{edgeRead, edgeWrite}},
		{name: "disarming one direction deletes its filter and touches nothing else",
			was: both, dirs: sm.Read, want: []kevent{deleted(evfiltWrite)}},
		{name: "disarming the only direction leaves no filter",
			was: sm.Read, want: []kevent{deleted(evfiltRead)}},
		{name: "removing deletes what is armed",
			was: both, want: []kevent{deleted(evfiltRead), deleted(evfiltWrite)}},
		{name: "removing what is not armed changes nothing"},
		{name: "nothing to change is no change",
			was: sm.Read, dirs: sm.Read},
		{name: "a change of direction deletes the one and adds the other",
			was: sm.Read, dirs: sm.Write, want: []kevent{deleted(evfiltRead), level(evfiltWrite)}},
		{name: "a switch to edges deletes first, since adding again keeps the mode",
			was: sm.Read, dirs: sm.Read, edge: true, switched: true,
			want: []kevent{deleted(evfiltRead), edgeRead}},
		{name: "a switch to levels deletes first, since EV_CLEAR cannot be taken back",
			was: sm.Read, dirs: sm.Read, switched: true,
			want: []kevent{deleted(evfiltRead), level(evfiltRead)}},
		{name: "a switch deletes every filter of the old mode, also those that nobody wants now",
			was: both, dirs: sm.Write, edge: true, switched: true,
			want: []kevent{deleted(evfiltRead), deleted(evfiltWrite), edgeWrite}},
		{name: "a switch of both directions is the longest list",
			was: both, dirs: both, edge: true, switched: true,
			want: []kevent{deleted(evfiltRead), deleted(evfiltWrite), edgeRead, edgeWrite}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var buf [maxChanges]kevent
			got := changes(&buf, fd, key, tc.was, tc.dirs, tc.edge, tc.switched)
			assert.ElementsMatch(t, tc.want, got)
			assert.LessOrEqual(t, len(got), maxChanges)
			for i, ev := range got { // a deletion after an addition would undo it
				if i > 0 && ev.Flags&evDelete != 0 {
					assert.NotZero(t, got[i-1].Flags&evDelete, "deletions come first")
				}
			}
		})
	}
}

// TestKqueueChangesReachTheirGoal applies the changes of every possible step to
// a kernel of two filters that behaves as kqueue does: adding what exists keeps
// its mode, and deleting what does not is ENOENT.
func TestKqueueChangesReachTheirGoal(t *testing.T) {
	type filter struct{ there, edge bool }
	dirsOf := func(bits int) sm.Dir { return sm.Dir(bits) & (sm.Read | sm.Write) }
	for step := range 4 * 4 * 4 {
		was, dirs := dirsOf(step), dirsOf(step>>2)
		wasEdge, edge := step>>4&1 != 0, step>>5&1 != 0
		if was == 0 {
			wasEdge = edge
		}
		var kernel [2]filter // by -filter-1
		for i, d := range []sm.Dir{sm.Read, sm.Write} {
			kernel[i] = filter{there: was&d != 0, edge: was&d != 0 && wasEdge}
		}
		var buf [maxChanges]kevent
		for _, ev := range changes(&buf, 5, 5, was, dirs, edge, edge != wasEdge) {
			f := &kernel[-ev.Filter-1]
			if ev.Flags&evDelete != 0 {
				require.True(t, f.there, "%v to %v: deletes what is not there", was, dirs)
				*f = filter{}
				continue
			}
			if !f.there {
				*f = filter{there: true, edge: ev.Flags&evClear != 0}
			}
		}
		for i, d := range []sm.Dir{sm.Read, sm.Write} {
			want := filter{there: dirs&d != 0, edge: dirs&d != 0 && edge}
			assert.Equal(t, want, kernel[i], "%v (edge %v) to %v (edge %v): %v", was, wasEdge, dirs, edge, d)
		}
	}
}

func TestKqueueOutcome(t *testing.T) {
	deletion := kevent{Flags: evDelete | evReceipt}
	addition := kevent{Flags: evAdd | evReceipt}
	receipt := func(errno syscall.Errno) kevent { return kevent{Flags: evReceipt | evError, Data: int64(errno)} }

	for _, tc := range []struct {
		name     string
		list     []kevent
		receipts []kevent
		missing  int
		errno    syscall.Errno
	}{
		{name: "receipts of 0 are success",
			list: []kevent{deletion, addition}, receipts: []kevent{receipt(0), receipt(0)}},
		{name: "deleting what is not there is success, and counted",
			list: []kevent{deletion, addition}, receipts: []kevent{receipt(syscall.ENOENT), receipt(0)}, missing: 1},
		{name: "an addition that finds nothing is a failure",
			list: []kevent{addition}, receipts: []kevent{receipt(syscall.ENOENT)}, errno: syscall.ENOENT},
		{name: "an addition to a closed descriptor is a failure",
			list: []kevent{addition}, receipts: []kevent{receipt(syscall.EBADF)}, errno: syscall.EBADF},
		{name: "any other failure to delete is one",
			list: []kevent{deletion}, receipts: []kevent{receipt(syscall.EBADF)}, errno: syscall.EBADF},
		{name: "of two failures the first counts",
			list: []kevent{addition, addition}, receipts: []kevent{receipt(syscall.EINVAL), receipt(syscall.ENOMEM)}, errno: syscall.EINVAL},
		{name: "no receipts say nothing",
			list: []kevent{addition}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			missing, errno := outcome(tc.list, tc.receipts)
			assert.Equal(t, tc.missing, missing)
			assert.Equal(t, tc.errno, errno)
		})
	}
}

func TestKqueueReadiness(t *testing.T) {
	const reset = uint32(syscall.ECONNRESET)
	for _, tc := range []struct {
		name  string
		ev    kevent
		ready readiness
		dirs  sm.Dir
	}{
		{name: "data is reading", ev: kevent{Filter: evfiltRead, Data: 5},
			ready: readyRead, dirs: sm.Read},
		{name: "a datagram of no bytes is reading too", ev: kevent{Filter: evfiltRead},
			ready: readyRead, dirs: sm.Read},
		{name: "room is writing", ev: kevent{Filter: evfiltWrite, Data: 1024},
			ready: readyWrite, dirs: sm.Write},
		{name: "the flags of the registration say nothing", ev: kevent{Filter: evfiltRead, Flags: evAdd | evClear | evReceipt},
			ready: readyRead, dirs: sm.Read},
		{name: "the end of the peer's data is no hang-up: what is left is read first",
			ev:    kevent{Filter: evfiltRead, Flags: evEOF, Data: 5},
			ready: readyRead | readyEnd, dirs: sm.Read},
		{name: "the end of the peer's data with nothing left is reading still",
			ev:    kevent{Filter: evfiltRead, Flags: evEOF},
			ready: readyRead | readyEnd, dirs: sm.Read},
		{name: "a reset concerns both directions, whichever filter tells",
			ev:    kevent{Filter: evfiltRead, Flags: evEOF, Fflags: reset},
			ready: readyRead | readyEnd | readyError, dirs: sm.Read | sm.Write},
		{name: "the end of writing is a hang-up and wakes both directions",
			ev:    kevent{Filter: evfiltWrite, Flags: evEOF},
			ready: readyWrite | readyHangup, dirs: sm.Read | sm.Write},
		{name: "a connection that is refused is an error of the write filter",
			ev:    kevent{Filter: evfiltWrite, Flags: evEOF, Fflags: uint32(syscall.ECONNREFUSED)},
			ready: readyWrite | readyHangup | readyError, dirs: sm.Read | sm.Write},
		{name: "urgent data is told, so that a short read is not taken for the last",
			ev:    kevent{Filter: evfiltRead, Flags: evClear, Fflags: noteOOB, Data: 3},
			ready: readyRead | readyUrgent, dirs: sm.Read},
		{name: "an error's number is not taken for urgent data",
			ev:    kevent{Filter: evfiltRead, Flags: evEOF, Fflags: noteOOB},
			ready: readyRead | readyEnd | readyError, dirs: sm.Read | sm.Write},
		{name: "the write filter knows no urgent data", ev: kevent{Filter: evfiltWrite, Fflags: noteOOB},
			ready: readyWrite, dirs: sm.Write},
		{name: "a broken filter wakes whoever waits", ev: kevent{Filter: evfiltRead, Flags: evError, Data: int64(syscall.EBADF)},
			ready: readyError, dirs: sm.Read | sm.Write},
		{name: "a receipt is no event", ev: kevent{Filter: evfiltRead, Flags: evError | evReceipt}},
		{name: "a filter that was not asked for is no event", ev: kevent{Filter: -7, Data: 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			assert.Equal(t, tc.ready, readinessOfKevent(&tc.ev))
			assert.Equal(t, tc.dirs, tc.ready.dirs())
		})
	}
}

func TestKqueueGather(t *testing.T) {
	read := func(fd int, gen uint32) kevent {
		return kevent{Ident: uint64(fd), Filter: evfiltRead, Udata: key(fd, gen)}
	}
	write := func(fd int, gen uint32) kevent {
		return kevent{Ident: uint64(fd), Filter: evfiltWrite, Udata: key(fd, gen)}
	}
	wake := kevent{Ident: 4, Filter: evfiltRead, Udata: wakeKey}

	for _, tc := range []struct {
		name  string
		batch []kevent
		want  []event
		woken bool
	}{
		{name: "an empty batch is no event"},
		{name: "events keep their order",
			batch: []kevent{read(9, 0), write(5, 1)},
			want:  []event{{key(9, 0), readyRead}, {key(5, 1), readyWrite}}},
		{name: "the two filters of a descriptor are one event, in the place of the first",
			batch: []kevent{read(9, 0), read(5, 1), write(9, 0)},
			want:  []event{{key(9, 0), readyRead | readyWrite}, {key(5, 1), readyRead}}},
		{name: "they are so in either order",
			batch: []kevent{write(9, 0), read(9, 0)},
			want:  []event{{key(9, 0), readyRead | readyWrite}}},
		{name: "events of different generations stay apart, for the loop to discard the stale one",
			batch: []kevent{read(9, 0), write(9, 1)},
			want:  []event{{key(9, 0), readyRead}, {key(9, 1), readyWrite}}},
		{name: "a wake is no event", batch: []kevent{wake}, woken: true},
		{name: "a wake among events is taken out",
			batch: []kevent{read(9, 0), wake, write(9, 0)},
			want:  []event{{key(9, 0), readyRead | readyWrite}}, woken: true},
		{name: "what is no event leaves no trace",
			batch: []kevent{{Ident: 9, Filter: -7, Udata: key(9, 0)}, read(9, 0)},
			want:  []event{{key(9, 0), readyRead}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var f filters
			f.setMode(9, false)
			events := make([]event, len(tc.batch))
			for range 2 { // the second batch finds nothing of the first
				filled, woken := f.gather(events, tc.batch)
				assert.Equal(t, tc.want, append([]event(nil), events[:filled]...))
				assert.Equal(t, tc.woken, woken)
			}
			for fd := range f {
				assert.Zero(t, f[fd].place)
			}
		})
	}
}

func TestKqueueModes(t *testing.T) {
	var f filters
	assert.False(t, f.setMode(3, false), "level-triggered is the mode of a descriptor that was never seen")
	assert.True(t, f.setMode(3, true))
	assert.False(t, f.setMode(3, true), "the same mode again is no switch")
	assert.True(t, f.setMode(100, true), "each descriptor has a mode of its own")
	assert.True(t, f.setMode(3, false))
	assert.False(t, f.setMode(100, true))
}

func TestKqueueAllocatesNothing(t *testing.T) {
	var f filters
	f.setMode(9, false)
	var buf [maxChanges]kevent
	batch := []kevent{{Ident: 9, Filter: evfiltRead, Udata: key(9, 0)}, {Ident: 9, Filter: evfiltWrite, Udata: key(9, 0)}}
	events := make([]event, len(batch))
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		changes(&buf, 9, 9, sm.Read, sm.Read|sm.Write, true, f.setMode(9, true))
		f.setMode(9, false)
		f.gather(events, batch)
	}))
}

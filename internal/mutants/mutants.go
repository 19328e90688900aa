package main

// mutation is a bug that is planted: a text that occurs once in a file, and what
// takes its place.
type mutation struct {
	name     string
	file     string
	old, new string
}

// mutations are bugs that somebody could write into the library, each in the
// place that keeps it from being one.
var mutations = []mutation{
	{"generation not compared", "slots.go",
		"if s == nil || s.gen != uint32(ev.key>>32) {", "if s == nil {"},
	{"generation not counted", "slots.go",
		"\ts.gen++\n", ""},
	{"remembered edge not taken", "slots.go",
		"if hit := s.edges & dir; hit != 0 {", "if hit := s.edges & dir & 0; hit != 0 {"},
	{"edge without waiter not remembered", "slots.go",
		"\t\ts.edges |= dirs &^ claimed\n", ""},
	{"edges of a destroyed task not given back", "slots.go",
		"\t\ts.edges |= dirs &^ s.waiters.Resume(dirs)\n", "\t\t_ = dirs\n"},
	{"bell cleared after the last look", "loop.go",
		"\t\tl.mail.alert.Store(false)\n\t\t// From here on a post or a wake rings; this is the last look.\n\t\ttimeout = l.sched.Timeout()\n",
		"\t\ttimeout = l.sched.Timeout()\n\t\tl.mail.alert.Store(false)\n"},
	{"bell never cleared", "loop.go",
		"\t\tl.mail.alert.Store(false)\n", ""},
	{"disarmed, and thought to be armed", "slots.go",
		"\t\ts.armed = want\n\t\ts.flags &^= slotDrained\n", "\t\ts.flags &^= slotDrained\n"},
	{"drained not cleared by an event", "slots.go",
		"\t\ts.flags &^= slotDrained\n\t}\n\tclaimed :=", "\t}\n\tclaimed :="},
	{"drained although nothing is armed", "slots.go",
		"if s.armed&sm.Read != 0 && s.flags&slotRestless == 0 {", "if s.flags&slotRestless == 0 {"},
	{"drained after the end was reported", "slots.go",
		"\tif s.flags&slotRestless != 0 {\n\t\ts.readStopped()\n\t\treturn\n\t}\n", ""},
	{"edge of a stopped read lost", "slots.go",
		"\t\ts.edges |= sm.Read\n", "\t\ts.edges |= 0\n"},
	{"close does not wake waiters", "slots.go",
		"\ts.waiters.Fail(cause)\n", "\t_ = cause\n"},
	{"hang-up of a parked task's socket spins", "slots.go",
		"case claimed == 0 && ev.ready&(readyHangup|readyError) != 0:\n\t\tl.leave(s, fd)",
		"case claimed == 0 && ev.ready&(readyHangup|readyError) != 0:"},
	{"waiters forgotten when disarming fails", "slots.go",
		"\t\t\ts.waiters.Nudge() // those who wait in the other direction must ask again\n", ""},
	{"registration of a shared descriptor left behind", "slots.go",
		"stays := !closing || s.flags&slotForeign != 0", "stays := !closing"},
	{"timers rounded down", "sm/wheel.go",
		"\tif deadline%tickNanos != 0 {\n\t\ttick++\n\t}\n", ""},
	{"only the first waiter is resumed", "sm/waiters.go",
		"if hit := t.dir & dirs; hit != 0 {", "if hit := t.dir & dirs; hit != 0 && claimed == 0 {"},
	{"budget not charged", "sm/budget.go",
		"\ts.ops--\n", ""},
	{"rest of a listener never ends", "listen.go",
		"return sm.Wait(int(ln.fd), 0).Until(ln.until)", "return sm.Wait(int(ln.fd), 0)"},
	{"interrupted read is an error", "sys.go",
		"\t\t\tn, errno = rawRead(fd, p)\n\t\t}\n\t\tif errno != syscall.EINTR {", "\t\t\tn, errno = rawRead(fd, p)\n\t\t}\n\t\tif true {"},
	{"remainder of a write sent twice", "writeall.go",
		"\tw.rest.begin += n\n", "\tw.rest.begin += n / 2\n"},
	{"result of an abandoned job lost", "job.go",
		"\t\tc.drop(c.value)\n", ""},
	{"descriptor of a failed dial kept", "dial.go",
		"\t\t\t_ = d.conn.Close() // the attempt's error is the one to return\n", ""},
}

// gaps are those that the simulation is known not to catch. They do not
// make the command fail.
var gaps = []mutation{
	{"edge of a stopped write lost", "slots.go",
		"\t\ts.edges |= sm.Write\n", "\t\ts.edges |= 0\n"},
	// Nothing resumes a task from within its own step here, but what it sees in that step.
	{"wake of a running task lost", "sm/scheduler.go",
		"\t\tt.flags |= flagAgain\n", ""},
	// A stream that was reset may end in any way: the model does not ask for the error.
	{"error after data dropped", "tcp.go",
		"\t\t\tc.postpone(err)\n", ""},
	// Every acceptor here tries before it waits.
	{"accept forgets the edge when it rests", "listen.go",
		"\t\t\ts.readStopped() // the connection waits on, and makes no second edge\n", ""},
}

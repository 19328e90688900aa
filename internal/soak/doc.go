// Soak lets servers of every kind run under mixed traffic, for minutes or hours,
// and says whether anything was lost, has leaked, has grown or has become slower.
//
//	go run ./internal/soak -for 60m          # from the module's root
//	go run ./internal/soak -for 2m -seed 7   # the same clients as another run with that seed
//
// # What runs
//
// The servers, a process of their own, are a Group of loops: echo (level- and
// edge-triggered), a proxy, requests and answers with jobs in a Pool, timers and
// deadlines, publishing by wakes from another goroutine, and UDP echo with single
// datagrams and batches. Beside them errands: tasks without a connection that
// ordinary goroutines start, and give up half of. Every so often the whole group
// is replaced by another on the same addresses and shut down, with Shutdown.
//
// The clients, in this process, are of package net. They connect, ask some times
// and go, by FIN or by RST, the latter also within a message; some send byte by
// byte, read slowly, stop in the middle of a request, or say nothing for long.
//
// # What must hold
//
// Every byte is checked against what it has to be there (see stream). Any other
// byte, and any end, error or silence that neither the client nor a restart
// explains, is a failure. What a restart may do: end connections and lose
// datagrams of that time. Of the requests on rpc connections it may lose none,
// once the connection has had an answer, unless the machine stands still: the
// control was not answered for a second. A failure that the library reports
// (WithReport) is one of the run's.
//
// In the end the traffic stops, and the servers must come back to the tasks,
// descriptors, registrations with epoll (what the kernel knows of the slots) and
// goroutines that they had before it; and after the service has stopped, to
// those of before the service.
//
// Flatness is judged by what is sampled in every interval after a warm-up of a
// fifth of the run, and only with enough samples (a minute's):
//
//   - Memory, resident and live heap: the trend (Theil-Sen: the median of the
//     slopes of all pairs of samples) over the rest of the run is at most
//     5 % of the median, or 4 MiB. Less than that is within what a Go heap moves;
//     so a leak is found from about 4 MiB in a run on, a kilobyte a second in an
//     hour.
//   - p99 of each kind of traffic that has at least a hundred answers an interval:
//     the median of the intervals' p99 in the last third is at most 1.5 times that
//     in the first third. A machine that becomes slower meanwhile makes everything slower; so
//     the same clients talk to an echo server of package net as well, the
//     control, a process of its own, and the factor by which that has become slower
//     is taken off, if it is more than 1. That it has become faster is not held
//     against anyone.
//   - Intervals in which other processes, or other machines, have used more than a
//     quarter of the processors (/proc/stat) say nothing about p99, and are left
//     out: there it is the kernel's scheduler that decides who waits, and it treats
//     the control otherwise than the servers. When fewer than ten
//     intervals are left in either third, p99 is not judged.
//
// CI does without the judgement of p99 (-any-p99): the thirds of its two minutes are
// half a minute each, and on a host whose processors are shared what computes (hash) was
// 1.65 times slower in one than in the other, and the control, which waits, 1.06 times.
//
// What this can't see: a slowness that comes at the same time as a machine's and
// is no greater; and one that the library brings on the control, by taking its
// processor. For that, samples.csv has the processor time of each.
//
// A figure that is not judged says so, and why, after two dashes.
//
// # Results
//
// One line a sample; in the results directory report.txt, samples.csv, soak.svg
// (memory and p99 over time; dotted marks are restarts) and dump.txt, every task
// and goroutine that was there at the end. The exit code is 0 when everything
// held, and 1 otherwise.
package main

// Package hostile holds tests of the library against peers that mean it no good:
// go test -count=1 -v ./internal/hostile prints at its end a table of what was
// promised, what came out, and the bound. With -full the sizes are those of the
// promises, with -figures the timed bounds are asserted as well, for a machine
// that does nothing else. What does not depend on time is always asserted:
// everybody is served, every byte is right, nothing is left behind.
//
//   - The half-close matrix: either end finishes, resets, does one after the
//     other, or closes, while the library's end is idle, has unread input, or
//     unsent output. Each cell states what both ends must see.
//   - Resets by the thousand, in every state that a connection of a server can
//     be in, beside a client that behaves.
//   - One peer, and several, that send as fast as they can, beside a thousand
//     that send a little.
//   - A process that has no descriptors left, and gets some back.
//   - A stream through the smallest buffers that the kernel grants.
//   - Datagrams to ports that nobody listens on, by the thousand.
//
// Who is measured, and who measures, are processes of their own: the test binary
// plays all the roles. Where there are two processors or more, the server has
// the first that the test may use to itself, with GOMAXPROCS=1, and the clients
// share the others: so what a hostile client costs is its own time, and what it
// costs others shows in theirs. The flooders run when those who measure do not
// (SCHED_IDLE), who therefore do not wait for them.
package hostile

// Package kqsim is kqueue(2) and kevent(2) on Linux, for tests: the calls that
// the poller of macOS makes, over real sockets and pipes, as far as that poller
// uses them. It follows the manual pages of macOS and FreeBSD, and where they
// leave something open Apple's kernel, xnu, whose files the comments name.
//
// A registration is a knote, of a descriptor number and a filter. Something that
// happens to the descriptor puts its knotes in line (here: an edge of epoll(7),
// one instance for each filter). A scan takes them in their order, asks each
// whether its condition holds now, and reports those for which it does. A knote
// without EV_CLEAR goes to the end of the line then, and leaves it when the
// condition does not hold any more; one with EV_CLEAR waits for the next thing to
// happen. See filter_linux.go for the conditions.
//
// What is only near the truth:
//   - What happens to a descriptor is what Linux makes an edge of. It makes fewer
//     than xnu when room to write appears, which xnu tells with every
//     acknowledgement and Linux after a writer found none; and more when a
//     connection ends, which tells both filters here.
//   - That a descriptor was closed is seen at the next call, by its inode: a
//     number that gets a duplicate of the very same file in between goes
//     unnoticed, and files without an inode of their own (eventfd) look alike.
//   - A pending error is told, and which one is not: Linux only tells it by taking
//     it away. Fflags is ECONNRESET then.
//   - Half-closed Unix sockets: a writer's own shutdown is not seen.
//   - The number of bytes of a datagram is that of the first one in the queue.
//
// Flags that the poller does not use, such as EV_ONESHOT, are refused with
// EINVAL: whoever begins to use one has to add it here.
package kqsim

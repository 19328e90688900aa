package stepio

import "golang.org/x/sys/unix"

// pollEnd is poll(2)'s event for the end of a peer's data, as near as it gets.
const pollEnd = unix.POLLIN

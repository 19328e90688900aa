// Package loopback gives a process an address of its own among those of the loopback
// interface.
//
// What a socket has sent may arrive when the one that it was for is closed, and then
// it goes to whoever has the port by now. Datagrams of a soak came so, at 127.0.0.1, to
// tests that counted theirs.
package loopback

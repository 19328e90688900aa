// Package arrival tells when the kernel took in what a socket has received. A
// client that measures a server by it leaves out how long it waited itself for a
// processor that it shares with others. For tests.
package arrival

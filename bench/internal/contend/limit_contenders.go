package contend

// limitContenders are the servers in C: no more than the system calls that the
// work takes. What they cost is the bound for the others.
func limitContenders() []Contender {
	epoll := cProgram(map[Service]string{Echo: "echo", EchoUDP: "udp", Fanout: "fanout"})
	edge := cProgram(map[Service]string{Echo: "echo"}, "edge")
	batches := cProgram(map[Service]string{EchoUDP: "mmsg"})
	return []Contender{
		{
			Name:    "C epoll",
			About:   "Hand-tuned C on one thread: level-triggered epoll, one registration, and one recv and one send an event.",
			Limit:   true,
			Program: epoll,
		},
		{
			Name:    "C edge",
			About:   "C epoll, edge-triggered: the kernel does not look a second time at what it has reported. Not the limit, but beside it.",
			Program: edge,
		},
		{
			Name:    "C mmsg",
			About:   "Hand-tuned C on one thread: recvmmsg that waits, and sendmmsg, 64 datagrams a call.",
			Limit:   true,
			Program: batches,
		},
	}
}

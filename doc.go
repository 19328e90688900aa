// Package stepio is a networking library in which a task is an explicit,
// resumable state machine and a single-threaded reactor advances it when its
// file descriptor is ready: epoll on Linux, kqueue on macOS. It is what C++20
// coroutine code becomes when it is ported by hand: no goroutine a connection,
// no callback nesting, no stack and no buffer for an idle connection.
//
// # The model
//
// A [Loop] runs tasks on one goroutine. A task is a frame, a struct with a
// method Step (package [github.com/stepio-go/stepio/sm]), that runs until it
// would block and then answers what it waits for. Every operation on a socket
// completes now or answers [ErrWouldBlock]; there are no callbacks. An echo:
//
//	// echo stands for
//	//
//	//	for (;;) { n = co_await sock.read(buf); if (!n) break; co_await sock.write(buf, n); }
//	type echo struct {
//		conn  *stepio.TCPConn
//		out   stepio.WriteAll
//		state echoState
//	}
//
//	type echoState uint8
//
//	const (
//		echoReading echoState = iota // waits for a message
//		echoWriting                  // sends it back
//	)
//
//	func (e *echo) Step(t *sm.Task) sm.Await {
//		for {
//			switch e.state {
//			case echoReading:
//				n, err := e.conn.Read(t.Scratch())
//				if err == stepio.ErrWouldBlock {
//					return e.conn.Readable()
//				}
//				if err != nil {
//					return sm.Done // Close, below, releases the connection
//				}
//				e.out.Start(e.conn, t.Scratch()[:n]) // keeps a copy only of what the socket would not take
//				e.state = echoWriting
//			case echoWriting:
//				if a := e.out.Step(t); a.Pending() {
//					return a
//				}
//				if e.out.Err() != nil {
//					return sm.Done
//				}
//				e.state = echoReading
//			default:
//				panic(fmt.Sprintf("echo.Step: state %d", e.state))
//			}
//		}
//	}
//
//	func (e *echo) Close() error { return e.conn.Close() }
//
//	func (e *echo) Idle() bool { return e.state == echoReading } // nothing is lost when Shutdown ends it here
//
// and its server:
//
//	loop, err := stepio.NewLoop()
//	...
//	defer loop.Close()
//	ln, err := stepio.ListenTCP(loop, netip.MustParseAddrPort("[::]:8888"), stepio.ListenOptions{})
//	...
//	loop.Spawn(stepio.NewServe(ln, func(c *stepio.TCPConn) sm.Frame { return &echo{conn: c} }))
//	err = loop.Run() // until loop.Stop()
//
// The package example is the same server, run by the tests.
//
// # Who may call what
//
// A loop, its tasks and its connections belong to the goroutine in [Loop.Run].
// Others reach it by [Loop.Post], [Loop.Stop], [Loop.Shutdown], [Loop.Close],
// [Call] and sm.Waker; a [Group] is for any goroutine. The option [WithChecks] finds those who do not keep to it.
//
// # Errors
//
// Expected outcomes are bare sentinels, to be compared with ==: [ErrWouldBlock]
// and io.EOF. Failures are as in package net: *net.OpError, in which errors.Is
// finds net.ErrClosed, os.ErrDeadlineExceeded, syscall.ECONNRESET and so on.
// Programmer's errors panic. A panic, and any failure of a task that nobody
// waits for, ends that task alone and is reported: [WithReport].
package stepio

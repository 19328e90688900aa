package sm_test

import (
	"fmt"
	"time"

	"github.com/stepio-go/stepio/sm"
)

// conn is the little that the example needs of a connection.
type conn interface {
	Read(p []byte) (n int, blocked bool)
}

// greeter reads a name and returns a greeting. It stands for
//
//	task<string> greeter(conn& c) { string name = co_await c.read(); co_return "hello, " + name; }
type greeter struct {
	sm.Returns[string]
	conn  conn
	fd    int
	state greeterState
}

type greeterState int

const (
	greeterReading greeterState = iota // waits for the name
	greeterDone                        // has its result
)

func (g *greeter) Step(t *sm.Task) sm.Await {
	switch g.state {
	case greeterReading:
		n, blocked := g.conn.Read(t.Scratch())
		if blocked {
			return sm.Wait(g.fd, sm.Read)
		}
		g.state = greeterDone
		return g.Return("hello, " + string(t.Scratch()[:n]))
	default:
		panic(fmt.Sprintf("greeter.Step: state %d", g.state))
	}
}

// pipe is a conn for a test: what is in it can be read.
type pipe []byte

func (p *pipe) Read(buf []byte) (n int, blocked bool) {
	if len(*p) == 0 {
		return 0, true
	}
	n = copy(buf, *p)
	*p = (*p)[n:]
	return n, false
}

// A frame is tested by calling Step and looking at the Await: there is no
// loop, no socket and no goroutine.
func ExampleFrame() {
	var in pipe
	frame := &greeter{conn: &in, fd: 7}
	task := sm.NewScheduler(sm.Config{}).Spawn(frame) // only so that there is a Task

	a := frame.Step(task)
	fmt.Println(a, a == sm.Wait(7, sm.Read))

	a = frame.Step(task) // every resume may be spurious
	fmt.Println(a.FD(), a.Dir(), a.Edge())

	in = pipe("world")
	fmt.Println(frame.Step(task) == sm.Done)
	fmt.Println(frame.Result())
	// Output:
	// fd 7 read true
	// 7 read false
	// true
	// hello, world <nil>
}

// knock asks three times, a second apart, unless it is answered.
type knock struct {
	fd    int
	times int
	state knockState
}

type knockState int

const (
	knockKnocking knockState = iota // about to knock
	knockWaiting                    // for the answer, at most a second
)

func (k *knock) Step(t *sm.Task) sm.Await {
	for {
		switch k.state {
		case knockKnocking:
			if k.times == 3 {
				fmt.Println("nobody is there")
				return sm.Done
			}
			k.times++
			fmt.Println("knock")
			k.state = knockWaiting
			return sm.Wait(k.fd, sm.Read).By(t.Now().Add(time.Second))
		case knockWaiting:
			if t.WaitErr() == nil {
				fmt.Println("come in")
				return sm.Done
			}
			k.state = knockKnocking
		default:
			panic(fmt.Sprintf("knock.Step: state %d", k.state))
		}
	}
}

// A scheduler with the zero Config has a virtual clock and virtual descriptors,
// so that a test of timeouts takes no time and depends on none.
func ExampleScheduler() {
	s := sm.NewScheduler(sm.Config{})
	defer s.Close()

	s.Spawn(&knock{fd: 3})
	s.Turn()
	s.Advance(time.Second)
	s.Turn()
	s.Ready(3, sm.Read)
	s.Turn()

	s.Spawn(&knock{fd: 4})
	for s.Live() > 0 {
		s.Advance(time.Second)
		s.Turn()
	}
	// Output:
	// knock
	// knock
	// come in
	// knock
	// knock
	// knock
	// nobody is there
}

// total adds up a tree of any depth.
type total struct {
	sm.Returns[int]
	tree  *tree
	child *total
	sum   int
	next  int // branch to call
}

type tree struct {
	value    int
	branches []*tree
}

func (f *total) Step(t *sm.Task) sm.Await {
	if f.child != nil {
		n, err := f.child.Result()
		if err != nil {
			return f.Fail(err)
		}
		f.sum += n
	}
	if f.next == len(f.tree.branches) {
		return f.Return(f.sum + f.tree.value)
	}
	f.child = &total{tree: f.tree.branches[f.next]}
	f.next++
	return t.Call(f.child)
}

func ExampleStack() {
	root := &total{tree: &tree{1, []*tree{{2, nil}, {3, []*tree{{4, nil}, {5, nil}}}}}}
	var stack sm.Stack
	stack.Start(root)

	s := sm.NewScheduler(sm.Config{})
	defer s.Close()
	s.Spawn(&stack)
	s.Turn()
	fmt.Println(root.Result())
	// Output: 15 <nil>
}

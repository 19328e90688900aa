package sm

import "fmt"

// virtual is the parker of a scheduler without one: descriptors that are ready
// when a test says so. Level-triggered readiness is not remembered, so a test
// says it while a task waits; an edge is.
type virtual struct{ fds []virtualFD }

type virtualFD struct {
	waiters Waiters
	edges   Dir // came while nobody waited
}

// maxVirtualFD bounds the table: a test that wants more has a slip in it.
const maxVirtualFD = 1 << 24

func (v *virtual) at(fd int) *virtualFD {
	if fd < 0 || fd >= maxVirtualFD {
		panic(fmt.Sprintf("stepio: Scheduler: virtual descriptor %d", fd))
	}
	for fd >= len(v.fds) {
		v.fds = append(v.fds, virtualFD{})
	}
	return &v.fds[fd]
}

// Park implements Parker.
func (v *virtual) Park(t *Task, a Await) error {
	d := v.at(a.FD())
	d.waiters.Add(t)
	if hit := d.edges & a.Dir(); a.Edge() && hit != 0 {
		d.edges &^= hit
		d.waiters.Resume(hit)
	}
	return nil
}

// Unpark implements Parker.
func (v *virtual) Unpark(t *Task, fd int) { v.at(fd).waiters.Remove(t) }

// Return implements Parker.
func (v *virtual) Return(fd int, dirs Dir) {
	d := v.at(fd)
	d.edges |= dirs &^ d.waiters.Resume(dirs)
}

// Ready says that virtual descriptor fd is ready in the directions of dirs: the
// tasks that wait for one of them run in the next turn. Directions that nobody
// waits for are remembered for the next edge-triggered wait. It panics on a
// scheduler with a Parker of its own.
func (s *Scheduler) Ready(fd int, dirs Dir) {
	s.virtual("Ready").Return(fd, dirs)
}

// Fail resumes every task that waits for virtual descriptor fd with err as its
// WaitErr. It panics on a scheduler with a Parker of its own.
func (s *Scheduler) Fail(fd int, err error) {
	s.virtual("Fail").at(fd).waiters.Fail(err)
}

func (s *Scheduler) virtual(method string) *virtual {
	v, ok := s.parker.(*virtual)
	if !ok {
		panic("stepio: Scheduler." + method + ": the descriptors are real")
	}
	return v
}

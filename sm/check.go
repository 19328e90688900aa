package sm

import (
	"fmt"
	"reflect"
)

// checkFirst is the check mode's part of Spawn: no frame is spawned twice, not
// even one that does not embed Returns. Frames that cannot be told apart (of
// no size, or no pointers) are passed over. It keeps every frame alive, so that
// no address comes back: check mode is for tests.
func (s *Scheduler) checkFirst(frame Frame) {
	ft := reflect.TypeOf(frame)
	if ft.Kind() != reflect.Pointer || ft.Elem().Size() == 0 {
		return
	}
	if _, again := s.seen[frame]; again {
		panic(fmt.Sprintf("stepio: Scheduler.Spawn: frame %s was spawned before", typeName(frame)))
	}
	s.seen[frame] = struct{}{}
}

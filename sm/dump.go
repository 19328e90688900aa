package sm

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"unsafe"
)

// What a goroutine's stack trace is to a goroutine, the frame chain is to a
// task: the root frame, its active callee, and so on, each with its state by
// name. The chain is read from the frames themselves, which keep no record for
// it: a callee is a field of its caller.

// Dump writes every live task, the oldest first, a line each: its frame chain,
// and what it waits for. Scheduler's goroutine only.
func (s *Scheduler) Dump(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%d tasks\n", s.live)
	for t := s.oldest(); t != nil; t = t.newer {
		fmt.Fprintf(out, "%s: %s\n", t.Chain(), t.waits())
	}
	return out.Flush()
}

// oldest is the live task that was spawned first.
func (s *Scheduler) oldest() *Task {
	t := s.newest
	for t != nil && t.older != nil {
		t = t.older
	}
	return t
}

// Chain is the task's frame chain on one line, the outermost frame first, as
// "*main.echo(echoWriting) > *stepio.WriteAll(512 bytes left)".
func (t *Task) Chain() string {
	if t.frame == nil {
		return "ended"
	}
	return chainText(t.frame)
}

func chainText(root Frame) string {
	var text strings.Builder
	text.Grow(128) // most chains are shorter
	for i, l := range chainOf(root) {
		if i > 0 {
			text.WriteString(" > ")
		}
		text.WriteString(l.frame)
		text.WriteByte('(')
		text.WriteString(l.state)
		text.WriteByte(')')
	}
	return text.String()
}

// innermost is the last link of frame's chain.
func innermost(frame Frame) (name, state string) {
	chain := chainOf(frame)
	last := chain[len(chain)-1]
	return last.frame, last.state
}

type link struct{ frame, state string }

// maxCallees bounds the callees that are followed, so that frames whose
// Inspect leads in a circle end. maxOnStack bounds the frames of a Stack that
// are shown: the innermost ones, and the outermost.
const (
	maxCallees = 64
	maxOnStack = 32
)

func chainOf(root Frame) []link {
	chain := make([]link, 0, 4)
	frame := root
	for callees := 0; frame != nil && callees < maxCallees; callees++ {
		state, callee, _ := inspect(frame)
		chain = append(chain, link{typeName(frame), state})
		if s, ok := frame.(*Stack); ok && len(s.frames) > 0 {
			last := len(s.frames) - 1
			for i := 0; i < last; i++ {
				if i == 1 && last > maxOnStack {
					i = last - maxOnStack + 1
					chain = append(chain, link{"...", fmt.Sprintf("%d more", i-1)})
				}
				state, _, _ := inspect(s.frames[i])
				chain = append(chain, link{typeName(s.frames[i]), state})
			}
			callee = s.frames[last]
		}
		frame = callee
	}
	return chain
}

func typeName(f Frame) string { return reflect.TypeOf(f).String() }

// inspect reads a frame's state and active callee: from the frame's Inspect,
// else from its fields. A frame is active when its state is not the first one
// and it has no result yet. A frame in which a step has just panicked may be in
// any condition, so a panic of its Inspect is what is shown.
func inspect(frame Frame) (state string, callee Frame, active bool) {
	defer func() {
		if v := recover(); v != nil {
			state, callee, active = fmt.Sprintf("panic in Inspect: %v", v), nil, true
		}
	}()
	if s, ok := frame.(*Stack); ok {
		return fmt.Sprintf("depth %d", len(s.frames)), nil, len(s.frames) > 0
	}
	if i, ok := frame.(inspector); ok {
		state, callee = i.Inspect()
		return state, callee, state != ""
	}
	v := reflect.ValueOf(frame)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return "?", nil, true
	}
	v = v.Elem()
	state = "?"
	if index := stateField(v.Type()); index != nil {
		if f, err := v.FieldByIndexErr(index); err == nil { // else in an embedded struct that is nil
			state, active = stateName(f)
		}
	}
	if f, ok := frame.(finisher); ok && f.finished() {
		return state, nil, false
	}
	return state, activeChild(v), active
}

// stateFields has what stateField has found: looking for a field allocates.
var stateFields sync.Map

// stateField is where a struct has the field named state; nil when it has none.
func stateField(t reflect.Type) []int {
	if index, ok := stateFields.Load(t); ok {
		return index.([]int)
	}
	f, _ := t.FieldByName("state")
	stateFields.Store(t, f.Index)
	return f.Index
}

// stateName renders a copy of the enum's value, so that its String method can
// be called although the field is not exported.
func stateName(f reflect.Value) (name string, active bool) {
	value := reflect.New(f.Type()).Elem()
	switch {
	case f.CanInt():
		value.SetInt(f.Int())
	case f.CanUint():
		value.SetUint(f.Uint())
	case f.Kind() == reflect.String:
		value.SetString(f.String())
	default:
		return "?", true
	}
	return fmt.Sprint(value.Interface()), !f.IsZero()
}

// activeChild is the last field of the struct v, itself no pointer, that is an
// active frame.
func activeChild(v reflect.Value) (child Frame) {
	for i := range v.NumField() {
		f := v.Field(i)
		if f.Kind() != reflect.Struct || !f.CanAddr() {
			continue
		}
		// The field may be unexported: make the pointer anew, without that mark.
		p := reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr()))
		frame, ok := p.Interface().(Frame)
		if !ok {
			continue
		}
		if _, _, active := inspect(frame); active {
			child = frame
		}
	}
	return child
}

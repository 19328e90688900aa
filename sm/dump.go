package sm

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strings"
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
	oldest := s.newest
	for oldest != nil && oldest.older != nil {
		oldest = oldest.older
	}
	for t := oldest; t != nil; t = t.newer {
		fmt.Fprintf(out, "%s: %s\n", t.Chain(), t.waits())
	}
	return out.Flush()
}

// Chain is the task's frame chain on one line, the outermost frame first, as
// "*main.echo(echoWriting) > *stepio.WriteAll(512 bytes left)".
func (t *Task) Chain() string {
	if t.frame == nil {
		return "ended"
	}
	var links []string
	for _, l := range chainOf(t.frame) {
		links = append(links, fmt.Sprintf("%s(%s)", l.frame, l.state))
	}
	return strings.Join(links, " > ")
}

// innermost is the last link of frame's chain.
func innermost(frame Frame) (name, state string) {
	chain := chainOf(frame)
	last := chain[len(chain)-1]
	return last.frame, last.state
}

type link struct{ frame, state string }

// maxChain bounds the chain that is written, so that frames that hold each
// other in a circle end.
const maxChain = 64

func chainOf(root Frame) []link {
	var chain []link
	for frame := root; frame != nil && len(chain) < maxChain; {
		if s, ok := frame.(*Stack); ok && len(s.frames) > 0 {
			chain = append(chain, link{typeName(s), fmt.Sprintf("depth %d", len(s.frames))})
			for _, f := range s.frames[max(0, len(s.frames)-maxChain) : len(s.frames)-1] {
				state, _, _ := inspect(f)
				chain = append(chain, link{typeName(f), state})
			}
			frame = s.frames[len(s.frames)-1]
			continue
		}
		state, callee, _ := inspect(frame)
		chain = append(chain, link{typeName(frame), state})
		frame = callee
	}
	return chain
}

func typeName(f Frame) string { return fmt.Sprintf("%T", f) }

// inspect reads a frame's state and active callee: from the frame's Inspect,
// else from its fields. A frame is active when its state is not the first one
// and it has no result yet.
func inspect(frame Frame) (state string, callee Frame, active bool) {
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
	if f := v.FieldByName("state"); f.IsValid() {
		state, active = stateName(f)
	}
	if f, ok := frame.(finisher); ok && f.finished() {
		return state, nil, false
	}
	return state, activeChild(v), active
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

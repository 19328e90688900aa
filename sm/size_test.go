package sm

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

// The sizes of what exists once a connection or once a wait: growth is a decision.
func TestSizes(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the budget is for 64-bit machines")
	}
	assert.EqualValues(t, 80, unsafe.Sizeof(Task{}), "Task")
	assert.EqualValues(t, 16, unsafe.Sizeof(Await{}), "Await")
	assert.EqualValues(t, 8, unsafe.Sizeof(Waiters{}), "Waiters")
	assert.EqualValues(t, 8, unsafe.Sizeof(Waker{}), "Waker")
	assert.EqualValues(t, 64, unsafe.Sizeof(extra{}), "extra, of a task with a timer")
	assert.EqualValues(t, 24, unsafe.Sizeof(Returns[struct{}]{}), "Returns without a value")
	assert.EqualValues(t, 8, unsafe.Sizeof(All{}), "All")
}

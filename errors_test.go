package stepio

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
)

// ErrWouldBlock is no interface, and must do all that an error does.
func TestErrWouldBlockIsAnError(t *testing.T) {
	var err error = ErrWouldBlock
	assert.True(t, err == ErrWouldBlock)
	assert.ErrorIs(t, fmt.Errorf("wrapped: %w", err), ErrWouldBlock)
	assert.EqualError(t, err, "stepio: would block")
	for _, other := range []error{nil, io.EOF, errors.New("stepio: would block"), &sentinel{"stepio: would block"}} {
		assert.False(t, other == ErrWouldBlock, "%v", other)
		assert.False(t, errors.Is(other, ErrWouldBlock), "%v", other)
	}
	kind := func(err error) string {
		switch err {
		case nil:
			return "nil"
		case ErrWouldBlock:
			return "would block"
		default:
			return "other"
		}
	}
	assert.Equal(t, []string{"nil", "would block", "other"}, []string{kind(nil), kind(err), kind(io.EOF)})
}

package stepio

import (
	"bytes"
	"runtime"
	"strconv"
)

// goroutineID is the number of the calling goroutine. The runtime gives it away
// only in a stack trace, which takes microseconds: for the check mode.
func goroutineID() uint64 {
	var buf [64]byte
	trace := buf[:runtime.Stack(buf[:], false)]
	trace = bytes.TrimPrefix(trace, []byte("goroutine "))
	if end := bytes.IndexByte(trace, ' '); end > 0 {
		if id, err := strconv.ParseUint(string(trace[:end]), 10, 64); err == nil {
			return id
		}
	}
	panic("stepio: goroutineID: unknown form of stack trace")
}

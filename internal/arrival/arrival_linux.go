package arrival

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Note has the kernel note the time at which packets arrive at a socket
// (SO_TIMESTAMPNS, socket(7)), on the loopback right when the server sends them.
// It begins to a moment later, the first time that anybody asks for it.
func Note(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
}

// Receive is recv(2) into p, and when the last of it arrived, by the clock of
// time.Now without its monotonic part: now, if the kernel has not noted it. Who calls keeps oob, of Room bytes, for
// its memory alone.
func Receive(fd int, p, oob []byte) (n int, at time.Time, err error) {
	n, oobn, _, _, err := unix.Recvmsg(fd, p, oob, 0)
	if err != nil || n == 0 {
		return max(n, 0), at, err
	}
	for rest := oob[:oobn]; len(rest) > 0; {
		header, data, next, err := unix.ParseOneSocketControlMessage(rest)
		if err != nil {
			return n, at, os.NewSyscallError("recvmsg", err)
		}
		if header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_TIMESTAMPNS && len(data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			stamp := (*unix.Timespec)(unsafe.Pointer(unsafe.SliceData(data)))
			return n, time.Unix(stamp.Unix()), nil
		}
		rest = next
	}
	return n, time.Now().Round(0), nil
}

// Room is the length of Receive's oob.
const Room = 64

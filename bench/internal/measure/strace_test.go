package measure

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseTraceReadsTheCalls(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]int64
	}{
		{"strace 6.1", `strace: Process 24803 attached with 6 threads
strace: Process 24803 detached
strace: Process 24804 detached
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 52.31    0.112233          11     10203           recvfrom
 40.10    0.086021           8     10203           sendto
  7.50    0.016083          32       502           epoll_pwait
  0.09    0.000200          10        20         3 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.214537          10     20928         3 total
`, map[string]int64{"recvfrom": 10203, "sendto": 10203, "epoll_pwait": 502, "futex": 20}},
		{"calls that took no time, and no errors", `strace: Process 7 attached
strace: Process 7 detached
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
  0.00    0.000000           0         2           read
------ ----------- ----------- --------- --------- ----------------
100.00    0.000000           0         2           total
`, map[string]int64{"read": 2}},
		{"strace 4, whose total has no time a call", `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 99.00    1.000000          50     20000      5000 epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    1.000000                 20000      5000 total
`, map[string]int64{"epoll_wait": 20000}},
		{"no calls at all", "strace: Process 7 attached\nstrace: Process 7 detached\n", map[string]int64{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseTrace(c.text)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
	_, err := ParseTrace("% time     seconds  usecs/call     calls    errors syscall\n 1.0 0.1 5 many read\n")
	require.ErrorContains(t, err, "many read")
}

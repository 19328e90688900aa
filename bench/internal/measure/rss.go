package measure

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// RSS returns the resident memory of a process in bytes: from smaps_rollup,
// which counts the pages, and where there is none from status, whose counters
// may lag behind (proc_pid_status(5)).
func RSS(pid int) (int64, error) {
	for _, source := range []struct{ file, key string }{{"smaps_rollup", "Rss"}, {"status", "VmRSS"}} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, source.file))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("resident memory: %w", err)
		}
		if value, ok := kibibytes(text, source.key); ok {
			return value, nil
		}
	}
	return 0, fmt.Errorf("resident memory of process %d: none is told", pid)
}

// kibibytes finds a line "key: N kB" and returns N in bytes.
func kibibytes(text []byte, key string) (int64, bool) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), ":")
		if !ok || name != key {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		return n << 10, err == nil
	}
	return 0, false
}

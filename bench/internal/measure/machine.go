package measure

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepio-go/stepio/bench/internal/result"
)

// toolBound is how long a tool that describes the machine may take.
const toolBound = 5 * time.Second

// Describe returns what can be told about this machine; what cannot is empty.
func Describe(ctx context.Context) result.Machine {
	cpuinfo := file("/proc/cpuinfo")
	memory, _ := kibibytes([]byte(file("/proc/meminfo")), "MemTotal")
	machine := result.Machine{
		CPU:         cpuModel(cpuinfo),
		CPUs:        runtime.NumCPU(),
		MemoryBytes: memory,
		Kernel:      kernel(),
		OS:          runtime.GOOS,
		Go:          runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		CC:          firstLine(tool(ctx, "cc", "--version")),
		Virtual:     virtual(ctx, cpuinfo),
		ClockSource: file("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		Congestion:  file("/proc/sys/net/ipv4/tcp_congestion_control"),
		Load:        file("/proc/loadavg"),
	}
	if name := value(file("/etc/os-release"), "PRETTY_NAME", "="); name != "" {
		machine.OS = strings.Trim(name, `"`)
	}
	return machine
}

// Commit returns the short id of the git commit that dir is at, with "+" when
// the tree was changed since, and nothing where there is no git.
func Commit(ctx context.Context, dir string) string {
	commit := tool(ctx, "git", "-C", dir, "rev-parse", "--short=12", "HEAD")
	if commit == "" {
		return ""
	}
	// Without locks: whoever works in the tree is not disturbed.
	if tool(ctx, "git", "--no-optional-locks", "-C", dir, "status", "--porcelain") != "" {
		commit += "+"
	}
	return commit
}

func cpuModel(cpuinfo string) string {
	if model := value(cpuinfo, "model name", ":"); model != "" {
		return model
	}
	// arm64 tells numbers only.
	if who := value(cpuinfo, "CPU implementer", ":"); who != "" {
		return "implementer " + who + " part " + value(cpuinfo, "CPU part", ":")
	}
	return runtime.GOARCH
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// virtual names the hypervisor by the first source that knows one, and the
// source, since they guess (systemd-detect-virt(1)); and the container.
func virtual(ctx context.Context, cpuinfo string) string {
	var found []string
	flag := slices.Contains(strings.Fields(value(cpuinfo, "flags", ":")), "hypervisor")
	if name := tool(ctx, "systemd-detect-virt", "--vm"); name != "" && name != "none" {
		found = append(found, name+" by systemd-detect-virt")
	} else if name := file("/sys/hypervisor/type"); name != "" {
		found = append(found, name+" by /sys/hypervisor")
	} else if flag {
		found = append(found, "a hypervisor by the CPU's flags")
	}
	if name := tool(ctx, "systemd-detect-virt", "--container"); name != "" && name != "none" {
		found = append(found, "in a container: "+name)
	}
	return strings.Join(found, ", ")
}

// value returns what stands after the key and the separator in the first line
// that has them.
func value(text, key, separator string) string {
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, separator)
		if ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// file returns a file's text, nothing when it cannot be read: a description has
// gaps where the machine does not tell.
func file(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// tool returns what a program prints, nothing when there is no such program or
// it fails without a word.
func tool(ctx context.Context, name string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, toolBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		return ""
	}
	return strings.TrimSpace(out.String())
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

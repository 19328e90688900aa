//go:build linux && kqsim

package stepio

func init() {
	kernels = append(kernels, backend{name: "emulated kqueue", poller: newKqueue, interrupt: interruptThread})
}

package main

import (
	"context"
	"net/netip"
	"time"
)

// controlName is the kind of traffic whose server is not the library's.
const controlName = "control"

// newTraffic is traffic of every kind, of about so many requests a second in
// all.
func newTraffic(seed uint64, addrs addresses, control netip.AddrPort, rate float64) *traffic {
	t := &traffic{seed: seed, addrs: addrs, control: control}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.kinds = []*kind{
		// The shares say how the rate is divided.
		{name: "echo", share: 0.18, workers: 40, session: echoes(toEcho, 200, 2<<10)},
		{name: "echo-edge", share: 0.15, workers: 40, session: echoes(toEchoEdge, 200, 2<<10)},
		{name: "proxy", share: 0.10, workers: 20, session: echoes(toProxy, 100, 2<<10)},
		{name: "get", share: 0.08, workers: 20, session: requests(rpcGet, 8<<10)},
		{name: "hash", share: 0.08, workers: 20, session: requests(rpcHash, 4<<10)},
		{name: "nap", share: 0.07, workers: 40, session: requests(rpcNap, 50)},
		{name: "udp", share: 0.10, workers: 20, session: asksByDatagram(toUDP, 1)},
		{name: "udp-batch", share: 0.04, workers: 8, session: asksByDatagram(toUDPBatch, 8)},
		{name: "visit", share: 0.05, workers: 10, session: visits},
		{name: controlName, share: 0.15, workers: 30, session: echoes(toControl, 200, 2<<10)},
		// These have a pace of their own, and but for the news too few answers for a
		// p99.
		{name: "news", timed: true, workers: 20, every: time.Second, session: subscribes},
		{name: "bulk", workers: 4, every: 400 * time.Millisecond, session: bulk(512<<10, toEcho, toEchoEdge, toProxy)},
		{name: "idle", workers: 1 + int(rate/10), every: 15 * time.Second, session: idles},
		{name: "slow-read", workers: 4, every: 2 * time.Second, session: readsSlowly},
		{name: "slow-send", workers: 4, every: 2 * time.Second, session: sendsSlowly},
		{name: "stall", workers: 10, every: 3 * time.Second, session: stalls},
	}
	for _, k := range t.kinds {
		if k.share > 0 {
			k.timed = true
			k.every = time.Duration(float64(k.workers) / (rate * k.share) * float64(time.Second))
		}
	}
	return t
}

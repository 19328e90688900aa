package contend

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// launch runs serve on a goroutine and waits until it has called ready with
// its address, or has failed. A server lasts as long as its process: one that
// ends later takes the process with it, so that the benchmark reports a failure
// and not the figures of a server that is gone.
func launch(name string, serve func(ready func(addr string)) error) (string, error) {
	addrs := make(chan string, 1)
	failed := make(chan error, 1)
	go func() {
		started := false
		err := serve(func(addr string) {
			started = true
			addrs <- addr
		})
		if err == nil {
			err = errors.New("it ended")
		}
		if started {
			log.Fatalf("bench: server %s: %v", name, err)
		}
		failed <- err
	}()
	select {
	case addr := <-addrs:
		return addr, nil
	case err := <-failed:
		return "", fmt.Errorf("bench: server %s: %w", name, err)
	}
}

// listen is package net's listener on a free port.
func listen() (net.Listener, error) { return listenOn("tcp", "127.0.0.1:0") }

// listenOn is net.Listen without its keep-alive probes. They cost four calls a
// connection, 15 % of one that comes and goes, and no other server has them.
func listenOn(network, addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	return config.Listen(context.Background(), network, addr)
}

// acceptPause is the wait after an accept that failed for want of descriptors
// or memory: the first wait of net/http for the same reason.
const acceptPause = 5 * time.Millisecond

// acceptEach calls serve with every connection until ln is closed.
func acceptEach(ln net.Listener, serve func(net.Conn)) error {
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			serve(c)
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			fmt.Fprintf(libraryLog, "accept: %v\n", err)
			time.Sleep(acceptPause)
		}
	}
}

// libraryLog is where the libraries log: the first lines reach standard error,
// the rest nobody, because a reset of 10,000 connections at once must not cost a
// server 10,000 lines. Standard output belongs to the protocol of Serve.
var libraryLog = &firstLines{}

// maxLogLines is how much a server may log.
const maxLogLines = 20

// firstLines is a writer that forgets all but the first calls of Write. It is
// safe for any goroutine.
type firstLines struct{ calls atomic.Int64 }

func (f *firstLines) Write(p []byte) (int, error) {
	if f.calls.Add(1) > maxLogLines {
		return len(p), nil
	}
	return os.Stderr.Write(p)
}

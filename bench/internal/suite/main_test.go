package suite

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stepio-go/stepio/bench/internal/contend"
	"github.com/stepio-go/stepio/bench/internal/load"
)

// The test binary is every process that a run starts: "fake NAME" is one of
// these servers, "load" the client.

// pidDir, in the environment, is where each of them leaves a file named by its
// process id.
const pidDir = "SUITE_TEST_PIDS"

// after is how many bytes a faulty server echoes on a connection before its
// fault.
const after = 16 << 10

var fakes = map[string]func() error{
	"right": func() error { return contend.Serve(echo(nil), os.Stdin, os.Stdout) },
	"crash": func() error {
		return contend.Serve(echo(func([]byte) bool { panic("the server has had enough") }), os.Stdin, os.Stdout)
	},
	"wrong": func() error {
		return contend.Serve(echo(func(b []byte) bool { b[0]++; return true }), os.Stdin, os.Stdout)
	},
	"stall": func() error {
		return contend.Serve(echo(func([]byte) bool { return false }), os.Stdin, os.Stdout)
	},
	// silent never says where it listens.
	"silent": func() error {
		fmt.Fprintln(os.Stderr, "thinking about it")
		_, err := os.Stdin.Read(make([]byte, 1))
		if err != nil {
			return nil // the end of its input
		}
		return fmt.Errorf("unexpected input")
	},
	// mute is a server that is not asked, and is ended by SIGTERM.
	"mute": func() error {
		addr, err := echo(nil)()
		if err != nil {
			return err
		}
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("listening on " + addr)
		<-term
		return nil
	},
}

// echo is a server that treats what it echoes by fault, when there is one, after
// that many bytes; fault says whether to send it at all.
func echo(fault func([]byte) bool) contend.Start {
	return func() (string, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					panic(err)
				}
				go echoConn(conn, fault)
			}
		}()
		return ln.Addr().String(), nil
	}
}

func echoConn(conn net.Conn, fault func([]byte) bool) {
	defer conn.Close()
	buf := make([]byte, 4<<10)
	for sum := 0; ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if sum += n; fault != nil && sum > after && !fault(buf[:n]) {
			continue
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) < 2 || (os.Args[1] != "fake" && os.Args[1] != "load") {
		os.Exit(m.Run())
	}
	err := leavePID()
	switch {
	case err != nil:
	case os.Args[1] == "load":
		err = load.Main(os.Stdin, os.Stdout)
	default:
		err = fakes[os.Args[2]]()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func leavePID() error {
	dir := os.Getenv(pidDir)
	if dir == "" {
		return nil
	}
	return os.WriteFile(filepath.Join(dir, strconv.Itoa(os.Getpid())), nil, 0o600)
}

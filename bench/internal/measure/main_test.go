package measure

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
)

// The test binary is its own helper: with the first argument "helper" it is one
// of these processes.
var helpers = map[string]func(){
	// echo answers each line with GOMAXPROCS and the line, until its input ends.
	"echo": func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Println(os.Getenv("GOMAXPROCS"), in.Text())
		}
	},
	// deaf does not end with its input, nor with SIGTERM.
	"deaf": func() {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		select {}
	},
	// mute ends with SIGTERM, and says so.
	"mute": func() {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("mute")
		<-term
		fmt.Println("bye")
	},
	"crash": func() {
		fmt.Fprintln(os.Stderr, "the reason")
		os.Exit(3)
	},
	// parent starts a mute child and a child that reads its input, tells their
	// ids, and waits to be killed.
	"parent": func() {
		for _, name := range []string{"mute", "echo"} {
			p, err := StartProcess(helper(name), Options{Mute: name == "mute"})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println(p.PID())
		}
		select {}
	},
}

func helper(name string) []string { return []string{os.Args[0], "helper", name} }

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "helper" {
		helpers[os.Args[2]]()
		return
	}
	os.Exit(m.Run())
}

package stdin

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

const roleEnv = "STEPIO_STDIN_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Println(err)
	}
}

// child waits for input that does not come, and then reads what does.
func child() error {
	in, err := Pipe()
	if err != nil {
		return err
	}
	if err := in.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return fmt.Errorf("a read would hold its processor: %w", err)
	}
	if n, err := in.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%d bytes read: %w", n, err)
	}
	if err := in.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	fmt.Println("waited")
	line := make([]byte, 8)
	n, err := in.Read(line)
	fmt.Printf("%s", line[:n])
	return err
}

// A pipe is read by way of the runtime's poller: it alone knows deadlines.
func TestReadOfAPipeHoldsNoProcessor(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	var out strings.Builder
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buf := make([]byte, 256)
	for sent := false; ; {
		n, err := pipe.Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
		if !sent && strings.Contains(out.String(), "waited\n") {
			_, err := in.Write([]byte("go on\n"))
			require.NoError(t, err)
			sent = true
		}
	}
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait())
	assert.Equal(t, "waited\ngo on\n", out.String())
}

// What is not a pipe stays as it is.
func TestOtherInputStaysAsItIs(t *testing.T) {
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer func() { assert.NoError(t, null.Close()) }()
	before := os.Stdin
	os.Stdin = null
	defer func() { os.Stdin = before }()
	in, err := Pipe()
	require.NoError(t, err)
	assert.Same(t, null, in)
}

package arrival

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

// What was sent arrives then, however late it is received.
func TestReceiveTellsWhenItArrived(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	far, err := ln.Accept()
	require.NoError(t, err)
	defer far.Close()
	file, err := near.(*net.TCPConn).File() // it blocks
	require.NoError(t, err)
	defer file.Close()
	fd := int(file.Fd())
	require.NoError(t, Note(fd))
	var p [8]byte
	noted := false
	for try := 0; try < 100 && !noted; try++ { // the kernel begins to note a moment later
		before := time.Now().Round(0)
		_, err = far.Write([]byte("x"))
		require.NoError(t, err)
		after := time.Now().Round(0)
		time.Sleep(10 * time.Millisecond) // what is not to be measured
		n, at, err := Receive(fd, p[:], make([]byte, Room))
		require.NoError(t, err)
		assert.Equal(t, "x", string(p[:n]))
		assert.False(t, at.Before(before), "%v before it was sent", before.Sub(at))
		noted = at.Sub(after) < 5*time.Millisecond
	}
	assert.True(t, noted)
}

package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/testseed"
)

// The attacks of slowhttptest (github.com/shekyan/slowhttptest): heads that never
// end, bodies that never end, answers that are hardly read. It asks on a probe
// connection of its own, all the time, whether the server still answers.
func TestSlowHTTPTestFindsTheServiceAvailable(t *testing.T) {
	besideOthers(t)
	path := tool(t, "slowhttptest")
	connections, seconds := 300, 4
	if *full {
		connections, seconds = 4000, 25 // past the time that the server has for a head
	}
	onServer, onCrowd := places(t)
	rnd := testseed.Rand(t)
	addr, _ := startServer(t, onServer...)
	attacks := []struct {
		name string
		args []string
	}{
		{"slow heads", []string{"-H", "-i", "1", "-u", "http://" + addr + "/hello"}},
		{"slow bodies", []string{"-B", "-i", "1", "-s", "100000", "-u", "http://" + addr + "/hello"}},
		{"slow reading", []string{"-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024", "-u", "http://" + addr + "/large.bin"}},
	}
	dir := t.TempDir()
	outputs := make([]string, len(attacks))
	failures := make([]error, len(attacks))
	alone := polite(t.Context(), rnd, addr, time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second+3*patience)
	defer cancel()
	var all sync.WaitGroup
	for i, attack := range attacks { // all at once
		all.Go(func() {
			args := append(attack.args, "-c", fmt.Sprint(connections), "-r", fmt.Sprint(connections), "-l", fmt.Sprint(seconds), "-p", "3",
				"-g", "-o", filepath.Join(dir, fmt.Sprint(i)))
			out, err := wrapped(exec.CommandContext(ctx, path, args...), onCrowd).CombinedOutput()
			outputs[i], failures[i] = string(out), err
		})
	}
	beside := polite(t.Context(), rnd, addr, time.Duration(seconds)*time.Second)
	all.Wait()
	for i, attack := range attacks {
		require.NoError(t, failures[i], outputs[i])
		// A line a second; the last column is not 0 where the probe was answered.
		file, err := os.Open(filepath.Join(dir, fmt.Sprint(i)+".csv"))
		require.NoError(t, err)
		rows, err := csv.NewReader(file).ReadAll()
		require.NoError(t, err)
		require.NoError(t, file.Close())
		require.Equal(t, "Service Available", rows[0][len(rows[0])-1])
		require.Greater(t, len(rows), 2, outputs[i])
		most, available := 0, 0
		for _, row := range rows[1:] {
			connected, err := strconv.Atoi(row[3])
			require.NoError(t, err)
			if most = max(most, connected); row[len(row)-1] != "0" {
				available++
			}
		}
		t.Logf("%-12s up to %d connections, available in %d of %d seconds", attack.name, most, available, len(rows)-1)
		assert.Equal(t, len(rows)-1, available, "%s:\n%v\n%s", attack.name, rows, outputs[i])
		assert.NotZero(t, most)
	}
	assert.Empty(t, beside.failures)
	assert.NotEmpty(t, beside.kept)
	t.Logf("p99 of the others %v, and %v of %d requests beside the attacks; connecting anew %v and %v of %d",
		p99(alone.kept), p99(beside.kept), len(beside.kept), p99(alone.anew), p99(beside.anew), len(beside.anew))
}

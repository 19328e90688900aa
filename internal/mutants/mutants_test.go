package main

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	_ "github.com/stepio-go/stepio/internal/testseed" // its tests take -seed, as all do
)

// The command takes minutes and is seldom run, while the library that it copies
// and changes goes on. These tests say at once when it can't any more.

func TestMutationsCanBePlanted(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	names := map[string]bool{}
	for _, m := range mutations {
		assert.False(t, names[m.name], "two are named %q", m.name)
		names[m.name] = true
		text, changed, err := m.texts(".")
		assert.NoError(t, err, m.name)
		assert.NotEqual(t, text, changed, m.name)
	}
	assert.GreaterOrEqual(t, len(names), 10)
}

func TestCopyOfTheModuleBuilds(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	dir := t.TempDir()
	require.NoError(t, copyModule(dir))
	cmd := exec.Command("go", "build", ".")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

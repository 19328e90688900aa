package testseed_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/internal/testseed"
)

// logged is a test of which only what it logs is wanted.
type logged struct {
	testing.TB
	text string
}

func (l *logged) Logf(_ string, args ...any) {
	for _, arg := range args {
		if s, ok := arg.(string); ok {
			l.text += s
		}
	}
}

func TestRandOfTheSameSeedIsTheSame(t *testing.T) {
	if testseed.Given() == 0 {
		assert.NotEqual(t, testseed.Rand(t).Uint64(), testseed.Rand(t).Uint64(), "no seed was given: each is new")
		return
	}
	assert.Equal(t, testseed.Rand(t).Uint64(), testseed.Rand(t).Uint64())
}

func TestRandSaysHowToRepeatTheTest(t *testing.T) {
	l := &logged{TB: t}
	testseed.Rand(l)
	assert.Contains(t, l.text, t.Name())
}

// takesSeed is how a file defines the flag: by this package, or a program by itself.
var takesSeed = regexp.MustCompile(`stepio/internal/testseed"|flag\.\w+\((&\w+, )?"seed"`)

// The go command gives -seed to the test binary of every package.
func TestEveryPackageWithTestsTakesASeed(t *testing.T) {
	const root = "../.."
	tested, takes := map[string]bool{}, map[string]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && path != root && (strings.HasPrefix(e.Name(), ".") || isModule(path)):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go":
			return nil
		}
		text, err := os.ReadFile(path)
		dir := filepath.Dir(path)
		tested[dir] = tested[dir] || strings.HasSuffix(path, "_test.go")
		takes[dir] = takes[dir] || takesSeed.Match(text)
		return err
	}))
	assert.Greater(t, len(tested), 10, "packages found")
	for dir, is := range tested {
		assert.True(t, takes[dir] || !is, "%s: a test file has to import internal/testseed", dir)
	}
}

// isModule reports whether a folder is a module of its own.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stepio-go/stepio/bench/internal/report"
	"github.com/stepio-go/stepio/bench/internal/result"
)

var update = flag.Bool("update", false, "write what the tests expect in testdata anew")

func TestTerminalGolden(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, report.Terminal(&b, madeUp(t)))
	golden := filepath.Join("testdata", "terminal.txt")
	if *update {
		require.NoError(t, os.WriteFile(golden, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	assert.Equal(t, string(want), b.String())
}

func TestTerminalKeepsToItsWidth(t *testing.T) {
	r := madeUp(t)
	r.Scenarios[0].Rows[1].Failure = "a long story\nover two lines " + strings.Repeat("and on ", 40)
	var b bytes.Buffer
	require.NoError(t, report.Terminal(&b, r))
	for line := range strings.Lines(b.String()) {
		assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 120, line)
	}
	assert.Contains(t, b.String(), "stepio edge    FAILED after 6 windows: a long story over two lines and on")
}

// The writer of a report may go away: its error is the answer.
func TestWritersReturnErrors(t *testing.T) {
	r := madeUp(t)
	for name, write := range map[string]func(io.Writer, *result.Report) error{
		"Terminal": report.Terminal, "JSON": report.JSON, "HTML": report.HTML,
	} {
		assert.ErrorIs(t, write(brokenWriter{}, r), errBroken, name)
	}
}

var errBroken = errors.New("broken")

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestJSONRoundTrip(t *testing.T) {
	r := madeUp(t)
	var b bytes.Buffer
	require.NoError(t, report.JSON(&b, r))
	assert.Contains(t, b.String(), "\n  \"commit\": \"e5c0a3f+\",\n")
	var back result.Report
	dec := json.NewDecoder(&b)
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(&back))
	assert.Equal(t, *r, back)
}

func page(t *testing.T, r *result.Report) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, report.HTML(&b, r))
	return b.String()
}

func TestHTMLIsWellFormed(t *testing.T) {
	html := page(t, madeUp(t))
	if dir := os.Getenv("REPORT_DIR"); dir != "" { // to look at it in a browser
		require.NoError(t, os.WriteFile(filepath.Join(dir, "report.html"), []byte(html), 0o644))
	}
	dec := xml.NewDecoder(strings.NewReader(html)) // strict: every element is closed, in order
	ids := make(map[string]bool)
	for {
		token, err := dec.Token()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		for _, a := range start.Attr {
			if a.Name.Local == "id" {
				assert.False(t, ids[a.Value], "id %q twice", a.Value)
				ids[a.Value] = true
			}
		}
	}
	for _, link := range regexp.MustCompile(`href="#([^"]*)"`).FindAllStringSubmatch(html, -1) {
		assert.True(t, ids[link[1]], "a link to %q, which is nowhere", link[1])
	}
	assert.Less(t, len(html), 3<<20)
}

func TestHTMLLoadsNothing(t *testing.T) {
	html := strings.ReplaceAll(page(t, madeUp(t)), `xmlns="http://www.w3.org/2000/svg"`, "")
	for _, s := range []string{"http://", "https://", "<script", "<link", "<img", "<image", "@import", "url(", "src=", "xlink"} {
		assert.NotContains(t, html, s)
	}
}

func TestHTMLHasEveryPlot(t *testing.T) {
	r := madeUp(t)
	html := page(t, r)
	titles := []string{
		"Server CPU a request", "Throughput", "What idle connections cost the active ones",
		"Resident memory of an idle connection", "Go heap and stacks of an idle connection", "Memory of what only waits",
	}
	for _, s := range r.Scenarios {
		if s.Group == result.GroupDensity {
			continue
		}
		titles = append(titles, "Server CPU: "+s.Title, "Latency: "+s.Title, "System calls: "+s.Title)
	}
	for _, title := range titles {
		_, after, ok := strings.Cut(html, "<figcaption>"+title+"<")
		if assert.True(t, ok, title) {
			figure, _, _ := strings.Cut(after, "</figure>")
			assert.Contains(t, figure, `aria-label="`+title+`"`)
			assert.Greater(t, strings.Count(figure, "<path"), 4, title)
		}
	}
	// Text and axes take the page's colour, so that they show on dark as well.
	assert.NotContains(t, html, "#010101")
	for _, text := range regexp.MustCompile(`(?s)<text [^>]*>`).FindAllString(html, -1) {
		assert.Contains(t, text, "currentColor")
	}
}

func TestHTMLEscapesWhatFailed(t *testing.T) {
	r := madeUp(t)
	r.Scenarios[0].Rows = append(r.Scenarios[0].Rows, result.Row{Contender: `"<b>odd</b>`, Failure: "</table><script>"})
	html := page(t, r)
	assert.NotContains(t, html, "<script")
	assert.NotContains(t, html, "<b>")
	assert.Contains(t, html, "&lt;script&gt;alert(1)&lt;/script&gt;")
	assert.Contains(t, html, "&lt;/table&gt;&lt;script&gt;")
}

func TestHTMLOfAShortRun(t *testing.T) {
	for name, r := range map[string]*result.Report{
		"a report without anything": {},
		"a scenario without samples": {Scenarios: []result.Scenario{
			{ID: "echo-64B-1", Title: "echo", Group: result.GroupEcho, Rows: []result.Row{{Contender: "stepio"}}},
			{ID: "density", Title: "density", Group: result.GroupDensity, Rows: []result.Row{{Contender: "stepio"}}},
			{ID: "new", Title: "a group of tomorrow", Group: "tomorrow"},
		}, Parked: &result.Parked{}},
	} {
		t.Run(name, func(t *testing.T) {
			r.Claims = report.Claims(r)
			html := page(t, r)
			assert.Contains(t, html, "not measured")
			assert.NotContains(t, html, "NaN")
			for _, s := range r.Scenarios {
				assert.Contains(t, html, `<h3 id="`+s.ID+`">`)
			}
			require.NoError(t, report.Terminal(io.Discard, r))
		})
	}
}

// One scenario with one contender and one round draws without a range to scale
// an axis by.
func TestHTMLOfOneSample(t *testing.T) {
	r := madeUp(t)
	r.Scenarios = r.Scenarios[:1]
	s := &r.Scenarios[0]
	s.Rows = s.Rows[:1]
	s.Rows[0].Samples = s.Rows[0].Samples[:1]
	require.NoError(t, report.Summarize(s))
	html := page(t, r)
	assert.Contains(t, html, "<figcaption>Throughput<")
	assert.NotContains(t, html, "NaN")
}

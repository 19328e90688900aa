package main

import (
	"strings"
)

// Lax readers: how servers that were once in use, or are, read what a strict one
// refuses. Each has one habit. What this server accepts, none of them may read
// otherwise: then it is safe behind any of them, and in front of them. They are
// known from RFC 9112, 11.2 and from reports of request smuggling; habits that read
// a sound request wrongly, as to ignore the body of a GET, are not among them.

// lax is a reader of requests. The zero one keeps to the letter where it looks at
// all, and takes the rest as it comes: it refuses hardly anything.
type lax struct {
	name string

	bareLF, bareCR bool // ends a line, too
	folds          int  // what a line is that begins with a space: see foldJoined
	trims          string
	cutsAtNUL      bool // a field ends there, as a string in C
	lastLength     bool // of several; otherwise the first
	lengthFirst    bool // a length is believed in spite of a coding
	containsCoding bool // "xchunked" and "gzip, chunked" are chunked, too
	lastCoding     bool // of a list, or of several fields
	anyCoding      bool // whatever it is, it is chunks
	oldHasChunks   bool // in HTTP/1.0
	bits           uint // of a chunk's size; 0: 64
	anyEnd         bool // two bytes after a chunk, whichever
	noEnd          bool // what ends a chunk need not be there
	lineEndsEarly  bool // a chunk's line ends at the first LF
}

// What becomes of a folded line.
const (
	foldJoined = iota // it belongs to the line before
	foldOwn           // it is a field of its own
	foldGone          // it is passed over
)

const laxSpace = " \t"

var laxReaders = []lax{
	{name: "to the letter"},
	{name: "a bare LF ends a line", bareLF: true},
	{name: "a bare CR ends a line", bareCR: true},
	{name: "LF or CR", bareLF: true, bareCR: true},
	{name: "a folded line is a field", folds: foldOwn, trims: laxSpace},
	{name: "a folded line is passed over", folds: foldGone},
	{name: "space before a colon", trims: laxSpace},
	{name: "control characters are space", trims: laxSpace + "\x00\x01\x08\x0b\x0c\x1f\x7f\r\n"},
	{name: "what is beyond ASCII is space", trims: laxSpace + "\x80\x85\xa0\xc2\xff\xef\xbb\xbf"},
	{name: "quotes are passed over", trims: laxSpace + "\"'"},
	{name: "commas are passed over", trims: laxSpace + ",;"},
	{name: "NUL ends a string", cutsAtNUL: true},
	{name: "the last length", lastLength: true},
	{name: "a length before a coding", lengthFirst: true},
	{name: "a coding that contains chunked", containsCoding: true},
	{name: "the last coding", lastCoding: true},
	{name: "any coding", anyCoding: true},
	{name: "chunks in HTTP/1.0", oldHasChunks: true},
	{name: "sizes of 32 bits", bits: 32},
	{name: "sizes of 31 bits", bits: 31},
	{name: "two bytes after a chunk", anyEnd: true},
	{name: "a chunk's end need not be there", noEnd: true},
	{name: "a chunk's line ends at LF", lineEndsEarly: true},
}

// line cuts the first line off text.
func (r lax) line(text string) (line, rest string, found bool) {
	for i := range len(text) {
		switch c := text[i]; {
		case c == '\r' && i+1 < len(text) && text[i+1] == '\n':
			return text[:i], text[i+2:], true
		case c == '\n' && r.bareLF, c == '\r' && r.bareCR && i+1 < len(text):
			return text[:i], text[i+1:], true
		}
	}
	return "", text, false
}

// read is the requests in text, by method and target, and whether it waits for
// the rest of another one behind them. Otherwise text is at its end.
func (r lax) read(text string) (seen []string, waits bool) {
	for {
		request, rest, found := r.line(text)
		for found && request == "" { // before a request
			request, rest, found = r.line(rest)
		}
		if !found {
			return seen, rest != ""
		}
		var lengths, codings []string
		var fields []string
		for line := ""; ; fields = append(fields, line) {
			if line, rest, found = r.line(rest); !found {
				return seen, true
			}
			if line == "" {
				break
			}
			if strings.Contains(laxSpace, line[:1]) && len(fields) > 0 && r.folds != foldOwn {
				if r.folds == foldJoined {
					fields[len(fields)-1] += line
				}
				line = ""
			}
		}
		for _, field := range fields {
			if r.cutsAtNUL {
				field, _, _ = strings.Cut(field, "\x00")
			}
			name, value, _ := strings.Cut(field, ":")
			value = strings.ToLower(strings.Trim(value, laxSpace+r.trims))
			switch strings.ToLower(strings.Trim(name, r.trims)) {
			case "content-length":
				lengths = append(lengths, value)
			case "transfer-encoding":
				codings = append(codings, value)
			}
		}
		words := strings.Fields(request)
		old := len(words) > 2 && words[2] == "HTTP/1.0"
		switch {
		case len(lengths) > 0 && (r.lengthFirst || !r.chunked(codings, old)):
			length := lengths[0]
			if r.lastLength {
				list := strings.Split(lengths[len(lengths)-1], ",")
				length = strings.Trim(list[len(list)-1], laxSpace)
			}
			size := prefix(length, 10, 63)
			if size > uint64(len(rest)) {
				return seen, true
			}
			rest = rest[size:]
		case r.chunked(codings, old):
			if rest, found = r.chunks(rest); !found {
				return seen, true
			}
		}
		if len(words) < 2 {
			words = append(words, "", "")
		}
		seen = append(seen, words[0]+" "+words[1])
		text = rest
	}
}

// chunked reports whether the body comes in chunks.
func (r lax) chunked(codings []string, old bool) bool {
	if len(codings) == 0 || old && !r.oldHasChunks {
		return false
	}
	coding := codings[0]
	if r.lastCoding {
		list := strings.Split(codings[len(codings)-1], ",")
		coding = strings.Trim(list[len(list)-1], laxSpace)
	}
	return coding == "chunked" || r.anyCoding || r.containsCoding && strings.Contains(strings.Join(codings, ","), "chunked")
}

// chunks cuts a body in chunks off text. Nothing is found when it has no end.
func (r lax) chunks(text string) (rest string, found bool) {
	trailers := r
	r.bareLF = r.bareLF || r.lineEndsEarly
	for {
		line, rest, found := r.line(text)
		if !found {
			return text, false
		}
		bits := r.bits
		if bits == 0 {
			bits = 64
		}
		size := prefix(line, 16, bits)
		if size == 0 {
			text = rest
			break
		}
		if size > uint64(len(rest)) {
			return text, false
		}
		text = rest[size:]
		switch {
		case r.anyEnd && len(text) >= 2:
			text = text[2:]
		case r.noEnd:
			text = strings.TrimPrefix(text, "\r\n")
		default:
			if _, text, found = r.line(text); !found {
				return text, false
			}
		}
	}
	for {
		line, rest, found := trailers.line(text)
		if !found {
			return text, false
		}
		if text = rest; line == "" {
			return text, true
		}
	}
}

// prefix is the number that text begins with, as strtoul reads it, in so many bits.
func prefix(text string, base uint64, bits uint) (n uint64) {
	text = strings.TrimLeft(text, " \t\v\f\r\n")
	text = strings.TrimPrefix(text, "+")
	if base == 16 {
		text = strings.TrimPrefix(text, "0x")
	}
	for i := range len(text) {
		digit := hexDigit(text[i])
		if digit < 0 || uint64(digit) >= base {
			break
		}
		n = n*base + uint64(digit)
	}
	return n & (1<<bits - 1)
}

// laxly looks for readers that see another boundary in text than who has accepted
// seen of it, and says how.
func laxly(text string, seen []string) (how []string) {
	for _, r := range laxReaders {
		theirs, waits := r.read(text)
		for i, ours := range seen {
			words := strings.Split(ours, " ")
			want := words[0] + " " + words[1]
			switch {
			case i < len(theirs) && theirs[i] != want:
				how = append(how, "to who reads so: "+r.name+", request is "+theirs[i]+" and not "+want)
			case i == len(theirs) && waits:
				how = append(how, "who reads so: "+r.name+", waits for more of "+want)
			default:
				continue
			}
			break
		}
	}
	return how
}

package output

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Harmless makes text that may be shown on a terminal: what would move its
// cursor, change its colours or its title, or turn the direction of its letters
// is made visible (\x1b), and bytes that are not UTF-8 become U+FFFD. Tabs stay.
func Harmless(text []byte) string {
	var b strings.Builder
	b.Grow(len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError:
			b.WriteRune(utf8.RuneError)
		case r == '\r':
			b.WriteString(`\r`)
		case harmful(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case harmful(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.Write(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

// harmful tells whether a terminal would do something else than show it.
func harmful(r rune) bool {
	switch {
	case r == '\t':
		return false
	case unicode.IsControl(r), r == '\u2028', r == '\u2029':
		return true
	}
	return r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' || r == '\u200e' || r == '\u200f' || r == '\u061c'
}

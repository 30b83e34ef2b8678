// Package configfile reads a configuration file: TOML, flat, strict. It knows
// nothing of what the keys mean; it says what the file holds, and where, and
// everything that is wrong with it at once.
package configfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Type is a set of the types that a key's value may have.
type Type uint

// The types of values. A List holds values of other types. A Table
// is the same as a list of "name=value".
const (
	Text Type = 1 << iota
	Number
	Boolean
	List
	Table
)

// words are the types as people call them.
func (t Type) words() string {
	var words []string
	for i, word := range []string{"text", "a number", "true or false", "a list", "a table"} {
		if t&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, " or ")
}

// Key is a setting that a file may hold.
type Key struct {
	Name    string
	Types   Type
	Members Type   // of a list; default the other types
	Example string // of a value, as it is written in a file
	Refused string // why this key must not stand in a file, with the remedy; "" when it may
}

// Place is where something stands, both numbers from 1, columns in bytes.
type Place struct{ Line, Column int }

// Value is what a key holds, or one member of its list, as text: "4", "true".
type Value struct {
	Text string
	Place
}

// Entry is a key with its values: one, or for a list any number.
type Entry struct {
	Key string
	Place
	Values []Value
}

// File is what a configuration file says.
type File struct {
	Name    string // as errors call it
	Text    []byte
	Entries map[string]Entry
}

// Has tells whether the file holds a key; also for no file.
func (f *File) Has(key string) bool {
	if f == nil {
		return false
	}
	_, has := f.Entries[key]
	return has
}

// At is a place as people and editors write it, with what stands there.
func (f *File) At(p Place, what string) string {
	return fmt.Sprintf("%s:%d:%d: %s", f.Name, p.Line, p.Column, what)
}

// Texts are the values.
func (e Entry) Texts() []string {
	texts := make([]string, len(e.Values))
	for i, v := range e.Values {
		texts[i] = v.Text
	}
	return texts
}

// Find is the place of a value of a key, or of the key when no value is the text.
func (e Entry) Find(text string) Place {
	for _, v := range e.Values {
		if v.Text == text {
			return v.Place
		}
	}
	if len(e.Values) > 0 {
		return e.Values[0].Place
	}
	return e.Place
}

// Problem is something wrong in a file. Its text says where, what, the cause and
// the remedy.
type Problem struct {
	Place
	Key  string // "" when it is not about one
	text string
}

func (p *Problem) Error() string { return p.text }

// Wrong makes a problem of a key, or of its value, at a place.
func (f *File) Wrong(p Place, key, value string, cause error) *Problem {
	what := printable(key)
	if value != "" {
		what += " " + printable(value)
	}
	return &Problem{p, key, f.At(p, what) + ": " + cause.Error()}
}

// PlaceOf is where an error's cause stands; the zero Place for errors that are
// not about a file.
func PlaceOf(err error) Place {
	if p := new(Problem); errors.As(err, &p) {
		return p.Place
	}
	return Place{}
}

// printable is text as it stands, or quoted when it would spoil a line.
func printable(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(text)
	}
	return text
}

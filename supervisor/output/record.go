package output

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ours is the key under which our tags stand in a record. An object that has it
// already is not merged, or a program could pass itself off as another worker.
const ours = "revenant"

// AppendJSON appends the line as a record of a JSON log. An object keeps its
// fields as they are and gets ours as one field more:
//
//	{"level":"info","msg":"…","revenant":{"worker":3,"slot":0,"generation":1,"stream":"stdout","time":"…"}}
//
// Anything else is the message of a record of its own.
func (l Line) AppendJSON(to []byte) []byte {
	if body, ok := l.object(); ok {
		to = append(to, body...)
		if body[len(body)-1] != '{' {
			to = append(to, ',')
		}
	} else {
		to = append(to, `{"time":"`...)
		to = l.Time.AppendFormat(to, time.RFC3339Nano)
		to = append(to, `","level":"INFO","msg":`...)
		to = appendString(to, l.Text)
		to = append(to, `,"component":"worker",`...)
	}
	to = append(to, `"`+ours+`":`...)
	to = l.appendTags(to)
	return append(to, "}\n"...)
}

func (l Line) appendTags(to []byte) []byte {
	to = append(to, `{"worker":`...)
	to = strconv.AppendUint(to, l.Worker, 10)
	to = append(to, `,"slot":`...)
	to = strconv.AppendInt(to, int64(l.Slot), 10)
	to = append(to, `,"generation":`...)
	to = strconv.AppendInt(to, int64(l.Generation), 10)
	to = append(to, `,"stream":"`+l.Stream.String()+`","time":"`...)
	to = l.Time.AppendFormat(to, time.RFC3339Nano)
	to = append(to, '"')
	if l.Cut() {
		to = append(to, `,"cut_from_bytes":`...)
		to = strconv.AppendInt(to, int64(l.Size), 10)
	}
	return append(to, '}')
}

// object is a JSON object without its last brace and the space around it; ok is
// false for a line that is none, or that cannot be merged.
func (l Line) object() (body []byte, ok bool) {
	text := bytes.TrimSpace(l.Text)
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' || l.Cut() || !json.Valid(text) || claims(text) {
		return nil, false
	}
	// No raw control characters are in a valid object but for those that JSON lets
	// stand, DEL and the upper half of Latin-1's, and what turns letters around.
	if bytes.ContainsFunc(text, func(r rune) bool { return r == utf8.RuneError || r != '\t' && harmful(r) }) {
		text = escaped(text)
	}
	return bytes.TrimRight(text[:len(text)-1], " \t\r\n"), true
}

// claims tells whether an object has a field of our name, however written.
func claims(object []byte) bool {
	if !bytes.Contains(object, []byte(ours)) && !bytes.Contains(object, []byte(`\u`)) {
		return false
	}
	var fields map[string]json.RawMessage
	err := json.Unmarshal(object, &fields)
	_, has := fields[ours]
	return err != nil || has
}

// escaped writes valid JSON without harmful characters: inside of strings, where
// alone they can be, they have another form.
func escaped(text []byte) []byte {
	clean := make([]byte, 0, len(text)+32)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError:
			clean = utf8.AppendRune(clean, r)
		case r == '\r': // space between tokens
			clean = append(clean, ' ')
		case harmful(r):
			clean = append(clean, '\\', 'u')
			clean = append(clean, hex4(r)...)
		default:
			clean = append(clean, text[:n]...)
		}
		text = text[n:]
	}
	return clean
}

func hex4(r rune) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", 4-len(s)) + s
}

// appendString appends text as a JSON string with nothing harmful in it.
func appendString(to, text []byte) []byte {
	to = append(to, '"')
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == '"' || r == '\\':
			to = append(to, '\\', byte(r))
		case r == '\t':
			to = append(to, `\t`...)
		case r == '\r':
			to = append(to, `\r`...)
		case harmful(r):
			to = append(to, '\\', 'u')
			to = append(to, hex4(r)...)
		default:
			to = utf8.AppendRune(to, r) // U+FFFD for what is not UTF-8
		}
		text = text[n:]
	}
	return append(to, '"')
}

// AppendText appends the line for people: when, who, and what, of an object the
// message first.
//
//	15:04:05.000 g1 s0 w3 err | Traceback (most recent call last):
//	15:04:05.000 g1 s0 w3 out | WARN slow request path=/ ms=1800
func (l Line) AppendText(to []byte) []byte {
	to = l.Time.Local().AppendFormat(to, "15:04:05.000")
	to = append(to, " g"...)
	to = strconv.AppendInt(to, int64(l.Generation), 10)
	to = append(to, " s"...)
	to = strconv.AppendInt(to, int64(l.Slot), 10)
	to = append(to, " w"...)
	to = strconv.AppendUint(to, l.Worker, 10)
	to = append(to, " "+l.Stream.short()+" | "...)
	if text, ok := l.told(); ok {
		to = append(to, text...)
	} else {
		to = append(to, Harmless(l.Text)...)
	}
	if l.Cut() {
		to = append(to, " … [cut, "...)
		to = strconv.AppendInt(to, int64(l.Size), 10)
		to = append(to, " bytes]"...)
	}
	return append(to, '\n')
}

// told writes a record of a structured log as a person would say it; ok is false
// for a line that is none.
func (l Line) told() (text string, ok bool) {
	if len(l.Text) == 0 || l.Text[0] != '{' || l.Cut() {
		return "", false
	}
	var fields map[string]any
	in := json.NewDecoder(bytes.NewReader(l.Text))
	in.UseNumber()
	if in.Decode(&fields) != nil || in.More() {
		return "", false
	}
	message, ok := take(fields, "msg", "message")
	if !ok {
		return "", false
	}
	words := []string{message}
	if level, ok := take(fields, "level", "severity", "lvl"); ok {
		words = []string{strings.ToUpper(level), message}
	}
	for _, known := range []string{"time", "ts", "timestamp", "@timestamp"} {
		delete(fields, known)
	}
	keys := make([]string, 0, len(fields))
	for key := range fields {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		words = append(words, key+"="+value(fields[key]))
	}
	return Harmless([]byte(strings.Join(words, " "))), true
}

// take removes the first of these fields that is a string.
func take(fields map[string]any, names ...string) (string, bool) {
	for _, name := range names {
		if s, ok := fields[name].(string); ok {
			delete(fields, name)
			return s, true
		}
	}
	return "", false
}

func value(v any) string {
	switch v := v.(type) {
	case string:
		if strings.ContainsAny(v, " \t\n\"=") || v == "" {
			return strconv.Quote(v)
		}
		return v
	case json.Number:
		return v.String()
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}

// Lost is the record that stands where lines were dropped.
func Lost(n uint64) slog.Record {
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "worker output lost: the log was not written as fast as workers printed", 0)
	r.AddAttrs(slog.Uint64("lines", n))
	return r
}

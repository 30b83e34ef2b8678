package output

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func said(text string) Line {
	return Line{Source: Source{Worker: 3, Slot: 0, Generation: 2, Stream: Stderr}, Time: time.Date(2026, 5, 4, 3, 2, 1, 500e6, time.UTC), Text: []byte(text), Size: len(text)}
}

const tags = `"revenant":{"worker":3,"slot":0,"generation":2,"stream":"stderr","time":"2026-05-04T03:02:01.5Z"}}`

func TestObjectIsMergedAndKeepsItsFields(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                    `{` + tags,
		`{"msg":"hi","n":1.0}`:                  `{"msg":"hi","n":1.0,` + tags,
		" {\"worker\":99, \"b\":{} } \r":        `{"worker":99, "b":{},` + tags,
		`{"a":"` + "\x7f\u009b31m\u202e" + `"}`: `{"a":"\u007f\u009b31m\u202e",` + tags,
		`{"a":"` + "\xff" + `"}`:                `{"a":"` + "\uFFFD" + `",` + tags,
		`{"a":"\u001b[2J"}`:                     `{"a":"\u001b[2J",` + tags,
	} {
		if got := string(said(text).AppendJSON(nil)); got != want+"\n" {
			t.Errorf("%q became\n%swant\n%s", text, got, want)
		}
	}
}

func TestWhatIsNoObjectOrClaimsToBeOursIsQuoted(t *testing.T) {
	for _, text := range []string{
		"", "plain", `"string"`, `[1]`, `{`, `{"a":}`, `{"a":1} {"b":2}`, `{"a":1}}`, "{\"a\":\"\x01\"}", `{"a":1`, "a\tb\r\x1b[2J\\ \" <&>",
		`{"revenant":{"worker":1}}`, `{"r\u0065venant":1}`, `{"a":1,"revenant":null}`,
	} {
		got := said(text).AppendJSON(nil)
		var record struct {
			Time     time.Time
			Level    string
			Msg      string
			Revenant struct{ Worker int }
		}
		if err := json.Unmarshal(got, &record); err != nil || record.Msg != text || record.Revenant.Worker != 3 || record.Level != "INFO" || record.Time.IsZero() {
			t.Errorf("%q became %s: %v", text, got, err)
		}
		if strings.ContainsFunc(string(got[:len(got)-1]), harmful) || strings.Count(string(got), "\n") != 1 {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestEveryRecordIsValidJSONOnOneLine(t *testing.T) {
	for _, text := range []string{"\xff\xfe\x00", "\u2028\u2029", strings.Repeat("\x00", 100), `{"a":"b"}` + "\x00", "{\"\xc3\x28\":1}", "\u0085"} {
		got := said(text).AppendJSON(nil)
		if !json.Valid(got) || strings.ContainsFunc(strings.TrimSuffix(string(got), "\n"), harmful) {
			t.Errorf("%q became %q", text, got)
		}
	}
}

func TestPeopleReadWhoSaidWhat(t *testing.T) {
	before := said("").Time.Local().Format("15:04:05.000") + " g2 s0 w3 err | "
	for text, want := range map[string]string{
		"":                        "",
		"hello\tworld":            "hello\tworld",
		"\x1b]0;title\x07\rx\x00": `\x1b]0;title\x07\rx\x00`,
		"\xffü":                   "\uFFFDü",
		"a\u202eb\u0085":          `a\u202eb\x85`,
		"a\u061cb\u200f":          `a\u061cb\u200f`,
		`{"level":"info","msg":"slow request","time":"x","path":"/a b","ms":18.50,"list":[1],"none":null}`: `INFO slow request list=[1] ms=18.50 none=null path="/a b"`,
		`{"message":"m` + "\u009b" + `","severity":"warning"}`:                                             `WARNING m\x9b`,
		`{"a":1}`:          `{"a":1}`,
		`{"msg":"x"} {}`:   `{"msg":"x"} {}`,
		`{"msg":"\u001b"}`: `\x1b`,
	} {
		if got := string(said(text).AppendText(nil)); got != before+want+"\n" {
			t.Errorf("%q became %q, want %q", text, got, before+want)
		}
	}
}

func TestCutLineIsMarked(t *testing.T) {
	l := said(`{"a":1}`)
	l.Size = 1 << 20
	if got := string(l.AppendText(nil)); !strings.HasSuffix(got, `{"a":1} … [cut, 1048576 bytes]`+"\n") {
		t.Errorf("for people: %q", got)
	}
	if got := string(l.AppendJSON(nil)); !json.Valid([]byte(got)) || !strings.Contains(got, `"msg":"{\"a\":1}"`) || !strings.Contains(got, `"cut_from_bytes":1048576`) {
		t.Errorf("as JSON: %q", got)
	}
}

func BenchmarkRecordOfAnObject(b *testing.B) {
	l := said(`{"time":"2026-05-04T03:02:01.5Z","level":"INFO","msg":"request","path":"/index.html","status":200,"ms":1.25}`)
	var to []byte
	for b.Loop() {
		to = l.AppendJSON(to[:0])
	}
}

func BenchmarkRecordOfText(b *testing.B) {
	l := said(`127.0.0.1 - - [04/May/2026:03:02:01 +0000] "GET /index.html HTTP/1.1" 200 612 "-" "curl/8.0"`)
	var to []byte
	for b.Loop() {
		to = l.AppendJSON(to[:0])
	}
}

func BenchmarkRing(b *testing.B) {
	r, l := NewRing(4<<20), said(strings.Repeat("x", 100))
	for b.Loop() {
		r.Add(l)
	}
}

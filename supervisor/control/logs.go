package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"revenant/supervisor/output"
)

// LogQuery says which lines of workers are meant. The zero value is all that the
// master still has; Newest is -1 for that when the others are set.
type LogQuery struct {
	Worker uint64         // only this one's; 0 for all
	Newest int            // only so many of those that are there; -1 for all
	Since  time.Time      // only what was printed after it
	Grep   *regexp.Regexp // only what it matches
	Follow bool           // and what will be printed
	again  bool           // the former master was followed until it ended
}

// LogLine is a line as the socket tells it, or how many lines are missing.
type LogLine struct {
	Time       time.Time `json:"time"`
	Worker     uint64    `json:"worker"`
	Slot       int       `json:"slot"`
	Generation int       `json:"generation"`
	Stream     string    `json:"stream"`
	Text       string    `json:"text"`
	Size       int       `json:"size,omitempty"` // of a line that was cut
	Lost       uint64    `json:"lost,omitempty"` // the reader was too slow for so many
}

func logLine(l output.Line) LogLine {
	told := LogLine{Time: l.Time, Worker: l.Worker, Slot: l.Slot, Generation: l.Generation, Stream: l.Stream.String(), Text: string(l.Text)}
	if l.Cut() {
		told.Size = l.Size
	}
	return told
}

// Line is the line as the master had it.
func (l LogLine) Line() output.Line {
	line := output.Line{Time: l.Time, Text: []byte(l.Text), Size: max(l.Size, len(l.Text)),
		Source: output.Source{Worker: l.Worker, Slot: l.Slot, Generation: l.Generation}}
	if l.Stream == output.Stderr.String() {
		line.Stream = output.Stderr
	}
	return line
}

// values is the query as the socket reads it.
func (q LogQuery) values() url.Values {
	v := url.Values{"n": {strconv.Itoa(q.Newest)}}
	if q.Worker != 0 {
		v.Set("worker", strconv.FormatUint(q.Worker, 10))
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.Format(time.RFC3339Nano))
	}
	if q.Grep != nil {
		v.Set("grep", q.Grep.String())
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	if q.again {
		v.Set("again", "1")
	}
	return v
}

// readLogQuery is the other direction; nothing is needed.
func readLogQuery(r *http.Request) (q LogQuery, err error) {
	q.Newest, q.Follow, q.again = -1, r.FormValue("follow") != "", r.FormValue("again") != ""
	read := func(name string, into func(value string) error) {
		if value := r.FormValue(name); value != "" && err == nil {
			if e := into(value); e != nil {
				err = fmt.Errorf("%s=%q: %w", name, value, e)
			}
		}
	}
	read("worker", func(value string) (e error) { q.Worker, e = strconv.ParseUint(value, 10, 64); return e })
	read("n", func(value string) (e error) { q.Newest, e = strconv.Atoi(value); return e })
	read("since", func(value string) (e error) { q.Since, e = time.Parse(time.RFC3339Nano, value); return e })
	read("grep", func(value string) (e error) { q.Grep, e = regexp.Compile(value); return e })
	return q, err
}

func (q LogQuery) wants(l output.Line) bool {
	return (q.Worker == 0 || l.Worker == q.Worker) && l.Time.After(q.Since) && (q.Grep == nil || q.Grep.Match(l.Text))
}

// past is what the ring has, and how many lines have left it that were wanted.
func (q LogQuery) past(f *output.Follower) (lines []output.Line, lost uint64) {
	for {
		more, gone := f.Rest()
		lost += gone
		if len(more) == 0 {
			return lines, lost
		}
		for _, l := range more {
			if q.wants(l) {
				lines = append(lines, l)
			}
		}
		if q.Newest >= 0 && len(lines) > q.Newest {
			lines = lines[len(lines)-q.Newest:]
		}
	}
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	q, err := readLogQuery(r)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.master.HasOutput(r.Context(), q.Worker); err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	follower := s.master.Output().Follow()
	if q.again { // of what this master has, such a reader has nothing yet
		follower = s.master.Output().FollowAll()
	}
	past, lost := q.past(follower)
	if lost > 0 && out.Encode(LogLine{Time: time.Now(), Lost: lost}) != nil {
		return
	}
	for _, l := range past {
		if out.Encode(logLine(l)) != nil {
			return
		}
	}
	if q.Follow {
		s.followLogs(w, r, q, follower)
	}
}

// followLogs goes on until the reader leaves, or the master does and has told the
// rest.
func (s *Server) followLogs(w http.ResponseWriter, r *http.Request, q LogQuery, follower *output.Follower) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// Ends with this function.
	go func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	out, flush := json.NewEncoder(w), http.NewResponseController(w)
	for flush.Flush() == nil {
		lines, lost := follower.Next(ctx)
		if lost > 0 && out.Encode(LogLine{Time: time.Now(), Lost: lost}) != nil {
			return
		}
		for _, l := range lines {
			if q.wants(l) && out.Encode(logLine(l)) != nil {
				return
			}
		}
		if len(lines) == 0 {
			return
		}
	}
}

// Logs hands the lines that workers printed to do. Those who follow go on until do
// returns an error, ctx ends or the instance does (nil); with the next master when
// one dies.
func (c *Client) Logs(ctx context.Context, q LogQuery, do func(LogLine) error) error {
	return c.followed(ctx, q.Follow, func(again bool) error {
		if again {
			q.Newest, q.again = -1, true // the next master has what this reader does not
		}
		return stream(ctx, c, "/v1/logs?"+q.values().Encode(), q.Follow, func(l LogLine) error {
			if l.Lost == 0 {
				q.Since = l.Time
			}
			return do(l)
		})
	})
}

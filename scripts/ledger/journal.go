package ledger

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// Journal is the servers' side of the ledger: a file to which every worker
// appends the id of each request when it begins and when it is done. What was
// done twice, and what a dead worker had begun, is known from it.
type Journal struct {
	file *os.File
}

// OpenJournal opens the file that all workers share.
func OpenJournal(path string) (*Journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the journal: %w", err)
	}
	return &Journal{file: file}, nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

// ServeHTTP answers with the checksum of what was posted, or with a greeting,
// and puts its work on the journal. The entry is in the file before the answer
// is on its way, so that not even SIGKILL can hide it.
func (j *Journal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := cmp.Or(r.Header.Get("X-Ledger-Id"), r.Header.Get("X-Request-Id"))
	if err := j.append("begin", id); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(body)
	checksum := hex.EncodeToString(sum[:])
	if err != nil || r.Header.Get("X-Body-Sha256") != "" && r.Header.Get("X-Body-Sha256") != checksum {
		http.Error(w, "the body is not what was sent", http.StatusBadRequest)
		return
	}
	if err := j.append("done", id); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("X-Request-Id", id)
	fmt.Fprintf(w, "%s %s\n", r.Method, checksum)
}

// append writes one line with one write(2): with O_APPEND it is never mixed
// with another process's.
func (j *Journal) append(what, id string) error {
	_, err := fmt.Fprintf(j.file, "%s %s\n", what, strings.ReplaceAll(id, "\n", ""))
	return err
}

// Work is what the servers did for one request.
type Work struct {
	Begun, Done int
}

// ReadJournal returns the work by request id.
func ReadJournal(path string) (map[string]Work, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the journal: %w", err)
	}
	defer file.Close()
	entries := map[string]Work{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		what, id, ok := strings.Cut(lines.Text(), " ")
		work := entries[id]
		switch {
		case ok && what == "begin":
			work.Begun++
		case ok && what == "done":
			work.Done++
		default:
			return nil, fmt.Errorf("cannot understand the journal: %q", lines.Text())
		}
		entries[id] = work
	}
	return entries, lines.Err()
}

// Doubles are the requests that were done more than once.
func Doubles(entries map[string]Work) []string {
	var ids []string
	for id, work := range entries {
		if work.Done > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

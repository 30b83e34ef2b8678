package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Response is an answer that came whole.
type Response struct {
	Status int
	ID     string // the X-Request-Id header, when the server echoes it
	Body   []byte // valid until the client's next request
}

var errMalformed = errors.New("not an HTTP/1.1 answer")

const maxBody = 64 << 20

// answer is one response and how its connection goes on.
type answer struct {
	Response
	close   bool // the server will close, or has to
	length  int  // -1: not said
	chunked bool
}

// readAnswer reads one response, after any 1xx that precede it. begun says
// whether a byte of it came at all.
func readAnswer(r *bufio.Reader, body []byte) (a answer, begun bool, err error) {
	if _, err := r.Peek(1); err != nil {
		return a, false, err
	}
	for {
		if a, err = readHead(r); err != nil {
			return a, true, err
		}
		if a.Status >= 200 {
			break
		}
	}
	a.Body, err = a.readBody(r, body[:0])
	return a, true, err
}

func readHead(r *bufio.Reader) (answer, error) {
	a := answer{length: -1}
	line, err := readLine(r)
	if err != nil {
		return a, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' {
		return a, fmt.Errorf("%w: it begins with %.40q", errMalformed, line)
	}
	if a.Status, err = strconv.Atoi(string(line[9:12])); err != nil || a.Status < 100 {
		return a, fmt.Errorf("%w: its status is %.40q", errMalformed, line)
	}
	a.close = line[7] == '0'
	for {
		line, err := readLine(r)
		if err != nil {
			return a, err
		}
		if len(line) == 0 {
			return a, nil
		}
		if err := a.header(line); err != nil {
			return a, err
		}
	}
}

func (a *answer) header(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return fmt.Errorf("%w: %.40q is no header", errMalformed, line)
	}
	value = bytes.TrimSpace(value)
	switch {
	case equal(name, "content-length"):
		n, err := strconv.Atoi(string(value))
		if err != nil || n < 0 || n > maxBody {
			return fmt.Errorf("%w: its length is %.40q", errMalformed, value)
		}
		a.length = n
	case equal(name, "transfer-encoding"):
		a.chunked = equal(value, "chunked")
	case equal(name, "connection"):
		a.close = a.close && !equal(value, "keep-alive") || equal(value, "close")
	case equal(name, "x-request-id"):
		a.ID = string(value)
	}
	return nil
}

func equal(b []byte, lower string) bool {
	return len(b) == len(lower) && bytes.EqualFold(b, []byte(lower))
}

func (a *answer) readBody(r *bufio.Reader, body []byte) ([]byte, error) {
	switch {
	case a.Status == 204 || a.Status == 304:
		return body, nil
	case a.chunked:
		return readChunks(r, body)
	case a.length >= 0:
		return readExactly(r, body, a.length)
	}
	// Only the end of the connection says where such a body ends.
	a.close = true
	rest, err := io.ReadAll(io.LimitReader(r, maxBody))
	return append(body, rest...), err
}

func readChunks(r *bufio.Reader, body []byte) ([]byte, error) {
	for {
		line, err := readLine(r)
		if err != nil {
			return body, err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil || len(body)+int(n) > maxBody {
			return body, fmt.Errorf("%w: its chunk has the size %.40q", errMalformed, line)
		}
		if n == 0 {
			return body, skipTrailer(r)
		}
		if body, err = readExactly(r, body, int(n)); err != nil {
			return body, err
		}
		if line, err = readLine(r); err != nil {
			return body, err
		}
		if len(line) != 0 {
			return body, fmt.Errorf("%w: its chunk goes on with %.40q", errMalformed, line)
		}
	}
}

func skipTrailer(r *bufio.Reader) error {
	for {
		line, err := readLine(r)
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

func readExactly(r *bufio.Reader, body []byte, n int) ([]byte, error) {
	start := len(body)
	body = append(body, make([]byte, n)...)
	read, err := io.ReadFull(r, body[start:])
	return body[:start+read], err
}

// readLine returns a line without its end. It is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line of its head is longer than %d bytes", errMalformed, len(line))
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

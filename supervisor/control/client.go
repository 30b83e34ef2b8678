package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/event"
)

// ErrNotRunning says that nobody answers on the socket.
var ErrNotRunning = errors.New("no instance is running")

// Client talks to one instance.
type Client struct {
	path  string
	alive func() bool
	http  http.Client
}

// ErrNoMaster says that the instance lives and nobody speaks for it just now.
var ErrNoMaster = errors.New("the instance has no master at the moment: its keeper is about to start one, and the workers go on serving (try again)")

// SilentError says that the master took a question and did not answer it: it is
// stopped, or does not get to run.
type SilentError struct{ Master int }

func (e *SilentError) Error() string {
	return fmt.Sprintf("the master (pid %[1]d) does not answer; its workers go on serving (kill -9 %[1]d, and the keeper replaces it)", e.Master)
}

// patience is how long a living instance may be without a master that answers:
// its keeper replaces one that died in some ten milliseconds, and one that was
// killed again at once after a short pause.
const (
	patience = 5 * time.Second
	askAgain = 10 * time.Millisecond
)

// cutOffs is how often a question is asked again that the death of a master cut off.
const cutOffs = 5

// answerLimit is how long a master may take to answer.
const answerLimit = 3 * time.Second

// Dial makes a client for the socket at path. Nothing is sent yet. While alive
// says that the instance exists, a socket on which nobody answers is tried again
// for a moment: its master may have died just now. Nil means it does not.
func Dial(path string, alive func() bool) *Client {
	c := &Client{path: path, alive: alive}
	c.http.Transport = &http.Transport{DialContext: c.dial, DisableKeepAlives: true}
	return c
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(askAgain)
	defer again.Stop()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", c.path)
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil, ErrNoMaster
		case err == nil:
			return asked(ctx, conn), nil
		case !nobody(err) || c.alive == nil || !c.alive():
			return nil, err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// exchange is one question on its way: who was asked, and on which connection.
type exchange struct {
	conn   net.Conn
	master atomic.Int64 // its pid, 0 until there is a connection
}

type exchangeKey struct{}

// asked notes the connection and bounds the wait for the answer. The kernel takes
// connections in the name of a master that is stopped, and says who that is.
func asked(ctx context.Context, conn net.Conn) net.Conn {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		return conn
	}
	x.conn = conn
	x.limit(answerLimit)
	if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				x.master.Store(int64(peer.Pid))
			}
		})
	}
	return conn
}

// limit bounds the wait from now on; 0 is no bound.
func (x *exchange) limit(d time.Duration) {
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	_ = x.conn.SetDeadline(until)
}

// silent makes of a wait that was too long the error that says so.
func (x *exchange) silent(err error) error {
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if master := x.master.Load(); late && master != 0 {
		return &SilentError{int(master)}
	}
	return err
}

func nobody(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// Status asks how the instance is.
func (c *Client) Status(ctx context.Context) (s supervisor.Status, err error) {
	return s, c.get(ctx, "/v1/status", &s)
}

// Config asks for the settings in force.
func (c *Client) Config(ctx context.Context) (list []supervisor.Setting, err error) {
	return list, c.get(ctx, "/v1/config", &list)
}

func (c *Client) get(ctx context.Context, path string, answer any) error {
	body, x, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	return x.silent(json.NewDecoder(body).Decode(answer))
}

// Show asks for all of one worker. See supervisor.Master.Show.
func (c *Client) Show(ctx context.Context, worker uint64) (r supervisor.Report, err error) {
	body, x, err := c.call(ctx, http.MethodGet, fmt.Sprintf("/v1/workers/%d", worker), nil)
	if err != nil {
		return r, err
	}
	defer body.Close()
	err = json.NewDecoder(body).Decode(&r)
	return r, x.silent(err)
}

// Kill sends a signal to a worker. See supervisor.Master.Kill.
func (c *Client) Kill(ctx context.Context, worker uint64, signal string) error {
	return c.post(ctx, fmt.Sprintf("/v1/workers/%d/kill", worker), map[string]string{"signal": signal})
}

// Stop begins the end of the instance.
func (c *Client) Stop(ctx context.Context) error { return c.post(ctx, "/v1/stop", struct{}{}) }

// Events hands each event after the given ID to do, and goes on when follow is
// set: until do returns an error, ctx ends or the instance does (nil). The master
// that follows upon a dead one is followed in its turn; it counts on.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, do func(event.Event) error) error {
	return c.followed(ctx, follow, func(bool) error {
		query := url.Values{"since": {strconv.FormatUint(since, 10)}}
		if follow {
			query.Set("follow", "1")
		}
		return stream(ctx, c, "/v1/events?"+query.Encode(), follow, func(e event.Event) error {
			since = max(since, e.ID)
			return do(e)
		})
	})
}

// followed reads the stream of one master, and while there is an instance that of
// the next.
func (c *Client) followed(ctx context.Context, follow bool, read func(again bool) error) error {
	err := read(false)
	if !errors.Is(err, errStreamEnded) {
		return err
	}
	for follow && c.alive != nil && c.alive() {
		err = read(true)
		if !errors.Is(err, errStreamEnded) && !errors.Is(err, ErrNoMaster) && !c.cutOff(err) && !errors.As(err, new(*SilentError)) {
			break
		}
	}
	if errors.Is(err, errStreamEnded) || errors.Is(err, ErrNotRunning) || c.alive != nil && !c.alive() {
		return nil
	}
	return err
}

var errStreamEnded = errors.New("the stream has ended")

// stream hands each object of one master's answer to do.
func stream[T any](ctx context.Context, c *Client, path string, follow bool, do func(T) error) error {
	body, x, err := c.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	if follow {
		x.limit(0)
	}
	for {
		if !follow {
			x.limit(answerLimit) // anew: whoever reads what we print may take his time
		}
		var one T
		if err := in.Decode(&one); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return x.silent(err)
			}
			return errStreamEnded // in the middle of a line, or after one
		}
		if err := do(one); err != nil {
			return err
		}
	}
}

func (c *Client) post(ctx context.Context, path string, body any) error {
	answer, _, err := c.send(ctx, path, body)
	if err != nil {
		return err
	}
	return answer.Close()
}

// send posts a wish and returns the body of a good answer.
func (c *Client) send(ctx context.Context, path string, wish any) (io.ReadCloser, *exchange, error) {
	text, err := json.Marshal(wish)
	if err != nil {
		return nil, nil, err
	}
	return c.call(ctx, http.MethodPost, path, bytes.NewReader(text))
}

// cutOff tells that the master died with our connection in its queue: a question
// may then be asked again.
func (c *Client) cutOff(err error) bool {
	cut := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
	return cut && c.alive != nil && c.alive()
}

// once asks, and asks the next master when one says that it was succeeded and did
// nothing.
func (c *Client) once(r *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(r)
	for tries := 0; tries < cutOffs && err == nil && answer.StatusCode == http.StatusServiceUnavailable; tries++ {
		_ = answer.Body.Close()
		select {
		case <-time.After(askAgain):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		answer, err = c.http.Do(r)
	}
	return answer, err
}

// call sends a request and returns the body of a good answer.
func (c *Client) call(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, *exchange, error) {
	x := &exchange{}
	r, err := http.NewRequestWithContext(context.WithValue(ctx, exchangeKey{}, x), method, "http://instance"+path, body)
	if err != nil {
		return nil, nil, err
	}
	answer, err := c.once(r)
	// More than once: of the descriptors of a dying master the listener may be the last to go.
	for tries := 0; tries < cutOffs && err != nil && method == http.MethodGet && c.cutOff(err); tries++ {
		answer, err = c.once(r)
	}
	err = x.silent(err)
	switch {
	case errors.As(err, new(*SilentError)):
		return nil, nil, err
	case errors.Is(err, ErrNoMaster):
		return nil, nil, ErrNoMaster
	case errors.Is(err, context.DeadlineExceeded):
		return nil, nil, fmt.Errorf("the instance at %s does not answer in time: its master is busy, or is being replaced (try again)", c.path)
	case nobody(err):
		return nil, nil, fmt.Errorf("%w (nobody answers on %s)", ErrNotRunning, c.path)
	case err != nil:
		var operation *net.OpError
		if errors.As(err, &operation) {
			return nil, nil, fmt.Errorf("cannot reach the instance at %s: %w", c.path, operation.Err)
		}
		return nil, nil, err
	case answer.StatusCode < 300:
		return answer.Body, x, nil
	}
	defer answer.Body.Close()
	var p Problem
	if json.NewDecoder(answer.Body).Decode(&p) != nil || p.Detail == "" {
		return nil, nil, fmt.Errorf("the instance answers %s", answer.Status)
	}
	return nil, nil, errors.New(p.Detail)
}

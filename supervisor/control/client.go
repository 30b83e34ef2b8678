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
	"strconv"
	"syscall"

	"revenant/supervisor"
	"revenant/supervisor/event"
)

// ErrNotRunning says that nobody answers on the socket.
var ErrNotRunning = errors.New("no instance is running")

// Client talks to one instance.
type Client struct {
	path string
	http http.Client
}

// Dial makes a client for the socket at path. Nothing is sent yet.
func Dial(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path: path, http: http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks how the instance is.
func (c *Client) Status(ctx context.Context) (s supervisor.Status, err error) {
	body, err := c.call(ctx, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return s, err
	}
	defer body.Close()
	return s, json.NewDecoder(body).Decode(&s)
}

// Kill sends a signal to a worker. See supervisor.Master.Kill.
func (c *Client) Kill(ctx context.Context, worker uint64, signal string) error {
	return c.post(ctx, fmt.Sprintf("/v1/workers/%d/kill", worker), map[string]string{"signal": signal})
}

// Stop begins the end of the instance.
func (c *Client) Stop(ctx context.Context) error { return c.post(ctx, "/v1/stop", struct{}{}) }

// Events hands each event after the given ID to do, and goes on for ever when
// follow is set: until do returns an error, ctx ends or the instance does (nil).
func (c *Client) Events(ctx context.Context, since uint64, follow bool, do func(event.Event) error) error {
	query := url.Values{"since": {strconv.FormatUint(since, 10)}}
	if follow {
		query.Set("follow", "1")
	}
	body, err := c.call(ctx, http.MethodGet, "/v1/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer body.Close()
	in := json.NewDecoder(body)
	for {
		var e event.Event
		if err := in.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return nil // the master ended in the middle of a line, or after one
		}
		if err := do(e); err != nil {
			return err
		}
	}
}

func (c *Client) post(ctx context.Context, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answer, err := c.call(ctx, http.MethodPost, path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	return answer.Close()
}

// call sends a request and returns the body of a good answer.
func (c *Client) call(ctx context.Context, method, path string, body io.Reader) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://instance"+path, body)
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w (nobody answers on %s)", ErrNotRunning, c.path)
	case err != nil:
		var operation *net.OpError
		if errors.As(err, &operation) {
			return nil, fmt.Errorf("cannot reach the instance at %s: %w", c.path, operation.Err)
		}
		return nil, err
	case answer.StatusCode < 300:
		return answer.Body, nil
	}
	defer answer.Body.Close()
	var p Problem
	if json.NewDecoder(answer.Body).Decode(&p) != nil || p.Detail == "" {
		return nil, fmt.Errorf("the instance answers %s", answer.Status)
	}
	return nil, errors.New(p.Detail)
}

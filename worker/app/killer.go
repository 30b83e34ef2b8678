package app

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"revenant/worker"
)

// permitTimeout bounds the wait for a master that is being replaced.
const permitTimeout = 2 * time.Second

// permitFunc asks whether this worker may die; worker.Permit outside of tests.
type permitFunc func(ctx context.Context, mode string) error

// modes in the order in which they are told to people; each is explained in the package's documentation.
var modes = []string{"graceful", "exit", "panic", "kill", "segv", "hang", "leak", "spin"}

// death is the JSON of a granted /workerKiller.
type death struct {
	Instance string `json:"instance"`
	Worker   uint64 `json:"worker"`
	PID      int    `json:"pid"`
	Mode     string `json:"mode"`
}

// workerKiller ends this worker after its answer arrived.
func (a *app) workerKiller(c echo.Context) error {
	r := c.Request()
	if !a.authorized(r) {
		c.Response().Header().Set(echo.HeaderWWWAuthenticate, "Bearer")
		return echo.NewHTTPError(http.StatusUnauthorized, "a token is needed, as Authorization: Bearer or X-Revenant-Token")
	}
	mode := c.QueryParam("mode")
	if mode == "" {
		mode = modes[0]
	}
	die, ok := a.deaths[mode]
	if !ok {
		return echo.NewHTTPError(http.StatusBadRequest, fmt.Sprintf("unknown mode %q, want one of %s", mode, strings.Join(modes, ", ")))
	}
	if err := a.mayDie(r.Context(), mode); err != nil {
		return echo.NewHTTPError(http.StatusConflict, err.Error())
	}
	return a.announce(c, mode, die)
}

func (a *app) mayDie(ctx context.Context, mode string) error {
	ctx, cancel := context.WithTimeout(ctx, permitTimeout)
	defer cancel()
	return a.permit(ctx, mode)
}

// announce answers, and lets the worker die when the answer is with the client and counted.
func (a *app) announce(c echo.Context, mode string, die func()) error {
	r := c.Request()
	// A close with unread input is a reset, which could overtake the answer.
	io.CopyN(io.Discard, r.Body, 64<<10)
	c.Response().Header().Set(echo.HeaderConnection, "close")
	text := fmt.Sprintf("Worker [%d] of server [%s], pid %d, dies now: %s.\n", a.id.Worker, a.id.Instance, a.id.PID, mode)
	err := answer(c, http.StatusOK, death{Instance: a.id.Instance, Worker: a.id.Worker, PID: a.id.PID, Mode: mode}, text)
	// Granted is granted: the master waits for this death whether the client still listens or not.
	worker.AfterClose(r.Context(), die)
	return errors.Join(err, http.NewResponseController(c.Response()).Flush(), ignore(worker.Delivered(r.Context())))
}

// ignore drops the error of a client that does not read: it had its second.
func ignore(err error) error {
	if errors.Is(err, worker.ErrNotDelivered) {
		return nil
	}
	return err
}

// authorized compares digests, so that neither the content nor the length of the token shows in the time.
func (a *app) authorized(r *http.Request) bool {
	if a.token == "" {
		return true
	}
	given := r.Header.Get("X-Revenant-Token")
	if scheme, token, ok := strings.Cut(r.Header.Get(echo.HeaderAuthorization), " "); ok && strings.EqualFold(scheme, "Bearer") {
		given = strings.TrimSpace(token)
	}
	want, got := sha256.Sum256([]byte(a.token)), sha256.Sum256([]byte(given))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

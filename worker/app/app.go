package app

import (
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"revenant/worker"
)

// Config is what the application is told.
type Config struct {
	Identity worker.Identity
	Chaos    bool   // /workerKiller exists
	Token    string // what /workerKiller asks for, if anything
}

// app is the application of one worker.
type app struct {
	id     worker.Identity
	token  string
	permit permitFunc
	deaths map[string]func()

	text []byte // the answers of GET /, which never change
	json []byte

	gate sync.RWMutex // held for reading by every request while there is chaos; a hang locks it for ever
}

// New makes the application. A worker without a supervisor invents the server's name.
func New(config Config) http.Handler { return newApp(config, worker.Permit).routes(config.Chaos) }

func newApp(config Config, permit permitFunc) *app {
	id := config.Identity
	if id.Instance == "" {
		id.Instance = uuid.NewString()
	}
	a := &app{
		id:     id,
		token:  config.Token,
		permit: permit,
		text:   fmt.Appendf(nil, "Hello, I am worker [%d] of server [%s].\n", id.Worker, id.Instance),
		json:   encode(greeting{Instance: id.Instance, Worker: id.Worker, Slot: id.Slot, Generation: id.Generation, PID: id.PID}),
	}
	a.deaths = map[string]func(){
		"graceful": worker.Drain,
		"exit":     exit,
		"panic":    panics,
		"kill":     kill,
		"segv":     segv,
		"hang":     a.hang,
		"leak":     leak,
		"spin":     spin,
	}
	return a
}

func (a *app) routes(chaos bool) http.Handler {
	e := echo.New()
	e.HideBanner = true
	e.HTTPErrorHandler = explain
	e.Match([]string{http.MethodGet, http.MethodHead, http.MethodPost}, "/", a.hello)
	if !chaos {
		return e
	}
	e.Match([]string{http.MethodGet, http.MethodPost}, "/workerKiller", a.workerKiller)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.gate.RLock()
		defer a.gate.RUnlock()
		e.ServeHTTP(w, r)
	})
}

// greeting is the JSON of GET /.
type greeting struct {
	Instance   string `json:"instance"`
	Worker     uint64 `json:"worker"`
	Slot       int    `json:"slot"`
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
}

func (a *app) hello(c echo.Context) error {
	if wantsJSON(c.Request()) {
		return send(c, http.StatusOK, echo.MIMEApplicationJSON, a.json)
	}
	return send(c, http.StatusOK, echo.MIMETextPlainCharsetUTF8, a.text)
}

// explain answers what went wrong in the way that the client asked for.
func explain(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	status, message := http.StatusInternalServerError, err.Error()
	if he, ok := errors.AsType[*echo.HTTPError](err); ok {
		status, message = he.Code, fmt.Sprint(he.Message)
	}
	answer(c, status, failure{Error: message}, message+"\n")
}

type failure struct {
	Error string `json:"error"`
}

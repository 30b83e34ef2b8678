package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"revenant/worker"
)

var identity = worker.Identity{Instance: "0198b2f4-0000-7000-8000-000000000001", Worker: 3, Slot: 1, Generation: 7, PID: 42, Supervised: true}

// ask sends one request; headers are "Name: value".
func ask(handler http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestGreetingSaysWhoAnswers(t *testing.T) {
	handler := New(Config{Identity: identity})
	w := ask(handler, "GET", "/")
	if want := "Hello, I am worker [3] of server [0198b2f4-0000-7000-8000-000000000001].\n"; w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != "text/plain; charset=UTF-8" {
		t.Errorf("%d %q, %v", w.Code, w.Body, w.Header())
	}
	w = ask(handler, "GET", "/", "Accept: application/json")
	if want := `{"instance":"0198b2f4-0000-7000-8000-000000000001","worker":3,"slot":1,"generation":7,"pid":42}` + "\n"; w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %q, %v", w.Code, w.Body, w.Header())
	}
	for method, status := range map[string]int{"HEAD": 200, "POST": 200, "PUT": 405, "DELETE": 405} {
		if w := ask(handler, method, "/"); w.Code != status {
			t.Errorf("%s: %d, want %d", method, w.Code, status)
		}
	}
}

func TestWorkerWithoutSupervisorInventsTheServer(t *testing.T) {
	handler := New(Config{})
	first := ask(handler, "GET", "/").Body.String()
	if !regexp.MustCompile(`^Hello, I am worker \[0\] of server \[[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\]\.\n$`).MatchString(first) {
		t.Errorf("%q", first)
	}
	if again := ask(handler, "GET", "/").Body.String(); again != first {
		t.Errorf("%q, then %q", first, again)
	}
}

func TestJSONIsForThoseWhoPreferIt(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                  false,
		"*/*":                               false,
		"application/json":                  true,
		"Application/JSON; charset=utf-8":   true,
		"application/json, */*":             true,
		"application/json, text/plain, */*": true,
		"text/plain, application/json":      false,
		"text/plain;q=0.5, application/json;q=0.9":                        true,
		"text/plain, application/json;q=0.9":                              false,
		"text/*;q=0.3, application/json;q=0.2":                            false,
		"application/json;q=0":                                            false,
		"application/json;q=0.1, */*;q=0":                                 true,
		"application/json;q=0.5, */*":                                     false,
		"application/json;q=none":                                         true,
		"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": false,
		"application/jsonx":                                               false,
		",,;q=;":                                                          false,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		if got := wantsJSON(r); got != want {
			t.Errorf("Accept: %s: JSON %v, want %v", accept, got, want)
		}
	}
}

// chaotic is an application whose deaths are only noted.
func chaotic(token string, permit permitFunc) (http.Handler, <-chan string) {
	a := newApp(Config{Identity: identity, Token: token}, permit)
	died := make(chan string, 1)
	for mode := range a.deaths {
		a.deaths[mode] = func() { died <- mode }
	}
	return a.routes(true), died
}

func granted(context.Context, string) error { return nil }

func TestWorkerKillerExistsOnlyWithChaos(t *testing.T) {
	calm := New(Config{Identity: identity})
	for _, path := range []string{"/workerKiller", "/unknown"} {
		if w := ask(calm, "GET", path); w.Code != 404 || w.Body.String() != "Not Found\n" {
			t.Errorf("%s: %d %q", path, w.Code, w.Body)
		}
	}
}

func TestWorkerKillerAnswersThenDies(t *testing.T) {
	handler, died := chaotic("", granted)
	for _, mode := range modes {
		for _, method := range []string{"GET", "POST"} {
			ctx, over := context.WithCancel(t.Context())
			r := httptest.NewRequest(method, "/workerKiller?mode="+mode, nil).WithContext(ctx)
			r.Header.Set("Accept", "application/json")
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			var got death
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
				t.Fatalf("%d %q: %v", w.Code, w.Body, err)
			}
			if want := (death{Instance: identity.Instance, Worker: 3, PID: 42, Mode: mode}); got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
			if h := w.Header(); h.Get("Connection") != "close" || h.Get("Content-Length") != fmt.Sprint(w.Body.Len()) || !w.Flushed {
				t.Errorf("header %v, flushed %v", h, w.Flushed)
			}
			select {
			case early := <-died:
				t.Errorf("died of %s before the request was over", early)
			default:
			}
			over()
			if last := <-died; last != mode {
				t.Errorf("died of %s, want %s", last, mode)
			}
		}
	}
}

func TestWorkerKillerRefuses(t *testing.T) {
	refused := func(_ context.Context, mode string) error {
		return &worker.RefusedError{Mode: mode, Reason: "it is the last ready worker"}
	}
	open, died := chaotic("", refused)
	guarded, _ := chaotic("secret", granted)
	alone := New(Config{Chaos: true})
	for _, c := range []struct {
		name    string
		handler http.Handler
		method  string
		target  string
		headers []string
		status  int
		body    string
	}{
		{"by the master", open, "GET", "/workerKiller", nil, 409, "the master refuses a death by graceful: it is the last ready worker\n"},
		{"by the master, as JSON", open, "GET", "/workerKiller?mode=kill", []string{"Accept: application/json"}, 409, `{"error":"the master refuses a death by kill: it is the last ready worker"}` + "\n"},
		{"without a master", alone, "GET", "/workerKiller", nil, 409, "no supervisor: nothing would revive this worker\n"},
		{"unknown mode", open, "GET", "/workerKiller?mode=shot", nil, 400, `unknown mode "shot", want one of graceful, exit, panic, kill, segv, hang, leak, spin` + "\n"},
		{"HEAD", open, "HEAD", "/workerKiller", nil, 405, "Method Not Allowed\n"},
		{"PUT", open, "PUT", "/workerKiller", nil, 405, "Method Not Allowed\n"},
		{"another path", open, "GET", "/workerkiller", nil, 404, "Not Found\n"},
		{"trailing slash", open, "GET", "/workerKiller/", nil, 404, "Not Found\n"},
		{"no token", guarded, "GET", "/workerKiller", nil, 401, "a token is needed, as Authorization: Bearer or X-Revenant-Token\n"},
		{"wrong token", guarded, "GET", "/workerKiller", []string{"X-Revenant-Token: secret2"}, 401, "a token is needed, as Authorization: Bearer or X-Revenant-Token\n"},
		{"token before mode", guarded, "GET", "/workerKiller?mode=shot", []string{"Authorization: Basic secret"}, 401, "a token is needed, as Authorization: Bearer or X-Revenant-Token\n"},
	} {
		w := ask(c.handler, c.method, c.target, c.headers...)
		if w.Code != c.status || w.Body.String() != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.name, w.Code, w.Body, c.status, c.body)
		}
		if c.status == 401 && w.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s: no challenge", c.name)
		}
	}
	for _, header := range []string{"Authorization: Bearer secret", "authorization: bearer secret", "X-Revenant-Token: secret"} {
		if w := ask(guarded, "POST", "/workerKiller", header); w.Code != 200 {
			t.Errorf("%s: %d %q", header, w.Code, w.Body)
		}
	}
	select {
	case mode := <-died:
		t.Errorf("died of %s although refused", mode)
	default:
	}
}

func TestEveryModeHasADeath(t *testing.T) {
	a := newApp(Config{}, granted)
	for _, mode := range modes {
		if a.deaths[mode] == nil {
			t.Errorf("no death of %s", mode)
		}
	}
	if len(a.deaths) != len(modes) {
		t.Errorf("%d deaths, %d modes", len(a.deaths), len(modes))
	}
}

func BenchmarkGreeting(b *testing.B) {
	handler := New(Config{Identity: identity, Chaos: true})
	r := httptest.NewRequest("GET", "/", nil)
	b.ReportAllocs()
	for b.Loop() {
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
}

package worker

import (
	"log/slog"
	"net/http"
	"time"
)

// Defaults of a server that faces the public, behind a proxy or not.
const (
	defaultListen       = "tcp://127.0.0.1:3000"
	defaultHeaderWait   = 10 * time.Second
	defaultIdle         = 75 * time.Second
	defaultHeaderBytes  = 64 << 10
	defaultQuiet        = 5 * time.Second // nginx/production.conf keeps upstream connections for 4 s
	defaultDrainTimeout = 30 * time.Second
)

// Option changes how Run serves.
type Option func(*options)

type options struct {
	listen       []string
	server       []func(*http.Server)
	quiet        time.Duration
	drainTimeout time.Duration
	log          *slog.Logger
}

func defaults() options {
	return options{listen: []string{defaultListen}, quiet: defaultQuiet, drainTimeout: defaultDrainTimeout, log: slog.Default()}
}

// WithListen sets where to listen when no supervisor hands down sockets: tcp://host:port or unix:/path.
// The default is tcp://127.0.0.1:3000.
func WithListen(addresses ...string) Option {
	return func(o *options) { o.listen = addresses }
}

// WithServer changes the server before it starts: timeouts, limits, hooks. By default a request's header
// must arrive within 10 s and fit 64 KiB, and an idle connection is kept for 75 s. Handler is ignored.
func WithServer(change func(*http.Server)) Option {
	return func(o *options) { o.server = append(o.server, change) }
}

// WithQuiet sets how long a draining worker keeps idle connections open. It must be longer than the proxy in
// front keeps them, or that one sends a request into a closing connection. The default is 5 s.
func WithQuiet(quiet time.Duration) Option {
	return func(o *options) { o.quiet = quiet }
}

// WithDrainTimeout sets how long a worker without a supervisor drains before it cuts what is left. The
// default is 30 s. A supervised worker drains until it is done or killed.
func WithDrainTimeout(timeout time.Duration) Option {
	return func(o *options) { o.drainTimeout = timeout }
}

// WithLogger sets where the worker logs; slog.Default by default.
func WithLogger(log *slog.Logger) Option {
	return func(o *options) { o.log = log }
}

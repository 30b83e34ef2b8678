package worker

import (
	"net"
	"net/http"
	"os"
	"sync"
)

// openDoor serves the handler on the master's private connection, when that comes: through it the master asks
// whether this very worker answers. It is another server than that of the clients, so that nothing on it is
// counted or drained. The function that is returned ends it.
func (s *server) openDoor(files <-chan *os.File) (end func()) {
	if files == nil {
		return func() {}
	}
	d := http.Server{
		Handler:        s.handler,
		BaseContext:    s.http.BaseContext,
		ConnContext:    s.http.ConnContext,
		WriteTimeout:   s.http.WriteTimeout,
		MaxHeaderBytes: s.http.MaxHeaderBytes,
		ErrorLog:       s.http.ErrorLog,
		Protocols:      s.http.Protocols,
		// It is silent for as long as the master has no question.
		ReadTimeout: -1, ReadHeaderTimeout: -1, IdleTimeout: -1,
	}
	over := make(chan struct{})
	var serving sync.WaitGroup
	// Ends when the end function is called; that one waits for it.
	serving.Go(func() {
		select {
		case file := <-files:
			conn, err := net.FileConn(file)
			file.Close()
			if err == nil {
				d.Serve(&single{conn: conn, over: over})
			}
		case <-over:
		}
	})
	return func() {
		close(over)
		d.Close()
		serving.Wait()
	}
}

// single is a listener with one connection, which exists already.
type single struct {
	conn net.Conn
	over <-chan struct{}
}

// Accept returns the connection, and then none until the end.
func (l *single) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.over
	return nil, net.ErrClosed
}

// Close closes a connection that nobody took.
func (l *single) Close() error {
	if l.conn != nil {
		return l.conn.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *single) Addr() net.Addr { return door{} }

// door is the address of the private connection.
type door struct{}

func (door) Network() string { return "unix" }
func (door) String() string  { return "door" }

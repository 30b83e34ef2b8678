package ledger

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Class is what became of a request. Each has exactly one.
type Class int

const (
	Answered       Class = iota // status 200, and the body is what it should be
	Refused                     // nobody listens, or no room in the queue
	ConnectTimeout              // no connection in time
	Reset                       // the connection was reset, whenever
	Empty                       // it was closed before the first byte of an answer
	Cut                         // it was closed in the middle of an answer
	Status                      // a whole answer with another status
	WrongBody                   // a whole answer, and not to this request
	Duplicate                   // more than one answer, or one that was given before
	Timeout                     // no whole answer in time

	void // the client's own fault: the run counts for nothing
	classes
)

var classNames = [...]string{"answered", "refused", "connect-timeout", "reset", "empty", "cut", "status", "wrong-body", "duplicate", "timeout", "void"}

func (c Class) String() string { return classNames[c] }

// ofDial puts an error of connecting into its class.
func ofDial(err error) Class {
	switch {
	case err == nil:
		return Answered
	// A unix socket whose queue is full says EAGAIN, one that is gone ENOENT.
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN):
		return Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return Reset
	case isTimeout(err), errors.Is(err, unix.ETIMEDOUT):
		return ConnectTimeout
	default:
		return void
	}
}

// ofRead puts an error of sending or reading into its class. begun says whether
// a byte of the answer had come.
func ofRead(err error, begun bool) Class {
	switch {
	case err == nil:
		return Answered
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return Reset
	case isTimeout(err), errors.Is(err, unix.ETIMEDOUT):
		return Timeout
	case errors.Is(err, io.EOF) && !begun:
		return Empty
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Cut
	case errors.Is(err, errMalformed):
		return WrongBody
	default:
		return void
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

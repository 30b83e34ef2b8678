package sockdiag

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// UnixSocket is what the kernel says of a unix socket.
type UnixSocket struct {
	// Path is what it is bound to; of an accepted connection, the listener's.
	Path string
	// Peer is the inode of the other end; 0 while that was not accepted, and when
	// there is none.
	Peer uint64
	// Unread is how many bytes came and were not read.
	Unread int
	// Waiting are, of a listener, the clients that wait to be accepted, by the
	// inodes of their ends.
	Waiting []uint64
}

// unixRequest is struct unix_diag_req.
type unixRequest struct {
	Family, Protocol uint8
	_                uint16
	States           uint32
	Inode            uint32
	Show             uint32
	Cookie           [2]uint32
}

// unixAnswer is struct unix_diag_msg.
type unixAnswer struct {
	Family, Type, State, _ uint8
	Inode                  uint32
	Cookie                 [2]uint32
}

// Attributes of an answer; the bit of each stands in Show.
const (
	attributeName     = 0
	attributePeer     = 2
	attributeWaiting  = 3
	attributeLengths  = 4
	showName          = 1 << attributeName
	showPeer          = 1 << attributePeer
	showWaiting       = 1 << attributeWaiting
	showLengths       = 1 << attributeLengths
	stateListen       = 10
	sizeOfInodeNumber = 4
)

// Unix asks for one unix socket by its inode. One that is gone is the zero value.
func Unix(inode uint64) (s UnixSocket, err error) {
	r := unixRequest{Family: unix.AF_UNIX, Inode: uint32(inode), Show: showName | showPeer | showWaiting | showLengths, Cookie: anyCookie}
	err = ask(r, false, func(answer []byte) { s = unixSocket(answer) })
	if errors.Is(err, errNone) {
		return UnixSocket{}, nil
	}
	return s, err
}

// UnixListener is Unix of a listener that must be there: it is ErrUnseen when it is
// not to be seen.
func UnixListener(inode uint64) (UnixSocket, error) {
	s, err := Unix(inode)
	if err == nil && s.Path == "" {
		err = ErrUnseen
	}
	return s, err
}

func unixSocket(answer []byte) (s UnixSocket) {
	var m unixAnswer
	rest := fixed(answer, &m)
	attributes(rest, func(kind uint16, value []byte) {
		switch {
		case kind == attributeName:
			s.Path = strings.TrimRight(string(value), "\x00")
		case len(value) < sizeOfInodeNumber:
		case kind == attributePeer:
			s.Peer = uint64(binary.NativeEndian.Uint32(value))
		case kind == attributeLengths && m.State != stateListen: // of a listener it is the number of clients
			s.Unread = int(binary.NativeEndian.Uint32(value))
		case kind == attributeWaiting:
			for ; len(value) >= sizeOfInodeNumber; value = value[sizeOfInodeNumber:] {
				s.Waiting = append(s.Waiting, uint64(binary.NativeEndian.Uint32(value)))
			}
		}
	})
	return s
}

// Package sockdiag asks the kernel for the sockets of this network namespace, as
// ss(8) does: sock_diag(7). It reads only, and needs no right.
package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// byFamily is the type of every request and answer (SOCK_DIAG_BY_FAMILY).
const byFamily = 20

// patience bounds the wait for an answer, which the kernel makes while we ask.
var patience = unix.Timeval{Sec: 1}

// errNone says that there is no such socket, or that the kernel cannot list the
// kind: it has one number for both.
var errNone = errors.New("no such socket")

// ErrUnseen says that what must be there is not to be seen, so that nothing which
// is not to be seen means anything.
var ErrUnseen = errors.New("the kernel does not show the listener: it is in another network namespace, or the kernel lacks tcp_diag or unix_diag")

// ask sends one request and hands each answer to take. With dump there are as
// many as there are sockets that match, else one.
func ask(request any, dump bool, take func(answer []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("cannot ask the kernel for sockets: %w", err)
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	if err := unix.Sendto(fd, message(request, dump), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot ask the kernel for sockets: %w", err)
	}
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read what the kernel says of sockets: %w", err)
		}
		if done, err := each(buffer[:n], take); done || err != nil || !dump {
			return err
		}
	}
}

// message is a request behind its header.
func message(request any, dump bool) []byte {
	flags := uint16(unix.NLM_F_REQUEST)
	if dump {
		flags |= unix.NLM_F_DUMP
	}
	var out bytes.Buffer
	size := unix.NLMSG_HDRLEN + binary.Size(request)
	header := unix.NlMsghdr{Len: uint32(size), Type: byFamily, Flags: flags}
	_ = binary.Write(&out, binary.NativeEndian, header)
	_ = binary.Write(&out, binary.NativeEndian, request)
	return out.Bytes()
}

// each takes the answers of one datagram; done is whether it holds the last.
func each(datagram []byte, take func(answer []byte)) (done bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return true, fmt.Errorf("cannot read what the kernel says of sockets: %w", err)
	}
	for _, m := range messages {
		switch m.Header.Type {
		case unix.NLMSG_DONE: // with the error that ended it, if any
			return true, failure(m.Data)
		case unix.NLMSG_ERROR:
			return true, failure(m.Data)
		case byFamily:
			take(m.Data)
		}
	}
	return false, nil
}

// failure reads the negative number of an error, which comes first; it may be 0.
func failure(data []byte) error {
	if len(data) < 4 {
		return unix.EIO
	}
	switch number := unix.Errno(-int32(binary.NativeEndian.Uint32(data))); number {
	case 0:
		return nil
	case unix.ENOENT:
		return errNone
	default:
		return fmt.Errorf("cannot ask the kernel for sockets: %w", number)
	}
}

// attributes hands over what stands behind the fixed part of an answer.
func attributes(data []byte, take func(kind uint16, value []byte)) {
	const header = unix.SizeofRtAttr
	for len(data) >= header {
		size, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
		if size < header || size > len(data) {
			return
		}
		take(kind, data[header:size])
		data = data[min((size+unix.RTA_ALIGNTO-1)&^(unix.RTA_ALIGNTO-1), len(data)):]
	}
}

// fixed copies the fixed part of an answer into a struct of the kernel's layout
// and returns the rest. A shorter one, of an older kernel, leaves zeros behind it.
func fixed[T any](data []byte, into *T) (rest []byte) {
	memory := unsafe.Slice((*byte)(unsafe.Pointer(into)), unsafe.Sizeof(*into))
	return data[copy(memory, data):]
}

package supervisor

import (
	"fmt"
	"math"
	"strings"

	"revenant/supervisor/listen"
	"revenant/supervisor/notify"
)

// Placement puts a listener on a descriptor of a worker.
type Placement struct {
	FD int
	// Name is the listener's configured address; "" is the first one that no
	// placement names.
	Name string
}

// firstListener is where listeners begin by the protocol.
const firstListener = 3

// noFile keeps a descriptor closed in a new process.
const noFile = math.MaxUint

// seating is where a worker finds its listeners.
type seating struct {
	files []uintptr // by their number in the worker
	first int       // the number of the first listener
	names []string  // escaped, of those that LISTEN_FDS can tell: from 3 on, without a gap
	taken []int     // all numbers that hold a listener
}

// place gives every listener a descriptor: the chosen one, or the lowest that is
// free from 3 on.
func place(sockets []*listen.Socket, chosen []Placement) seating {
	at := make(map[int]*listen.Socket, len(sockets))
	free := append([]*listen.Socket(nil), sockets...)
	for _, named := range []bool{true, false} {
		for _, p := range chosen {
			if (p.Name != "") != named {
				continue
			}
			for i, s := range free {
				if s != nil && (!named || s.Name().String() == p.Name) {
					at[p.FD], free[i] = s, nil
					break
				}
			}
		}
	}
	next := firstListener
	for _, s := range free {
		if s == nil {
			continue
		}
		for at[next] != nil {
			next++
		}
		at[next] = s
	}
	return seatingOf(at, sockets)
}

func seatingOf(at map[int]*listen.Socket, sockets []*listen.Socket) seating {
	s := seating{files: []uintptr{0, 1, 2}, first: firstListener}
	highest := 2
	for fd := range at {
		highest = max(highest, fd)
	}
	told := true
	for fd := range highest + 1 {
		socket := at[fd]
		if fd >= len(s.files) {
			s.files = append(s.files, noFile)
		}
		if fd >= firstListener {
			told = told && socket != nil
		}
		if socket == nil {
			continue
		}
		s.files[fd] = uintptr(socket.FD())
		s.taken = append(s.taken, fd)
		if socket == sockets[0] {
			s.first = fd
		}
		if told && fd >= firstListener {
			s.names = append(s.names, notify.EscapeName(socket.Name().String()))
		}
	}
	return s
}

func (s *seating) list() string { return strings.Trim(fmt.Sprint(s.taken), "[]") }

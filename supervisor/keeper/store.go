package keeper

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"revenant/supervisor/notify"
)

// Limits of the store: the names must fit in one variable of the environment, 128 KiB.
const (
	maxStored = 4096
	maxName   = 255 // by the protocol
	maxNames  = 96 << 10
)

// store holds the descriptors that outlive a master, in the order they came. They are bare numbers:
// an os.File would have the runtime watch the listeners and wake the keeper for every connection,
// and could change their flags, which all processes share.
type store []stored

type stored struct {
	name string // escaped, as the protocol carries it
	fd   int
}

// keep takes copies of files under a name, in place of what had that name.
func (s *store) keep(name string, files []*os.File) error {
	if name == "" {
		name = "stored"
	}
	if len(name) > maxName {
		return fmt.Errorf("its name has %d bytes, escaped, and no more than %d can be given to the next master", len(name), maxName)
	}
	if !notify.ValidName(name) {
		return fmt.Errorf("its name %.60q holds what LISTEN_FDNAMES cannot", name)
	}
	size := 0
	for _, e := range *s {
		size += len(e.name) + 1
	}
	if len(*s)+len(files) > maxStored || size+len(files)*(len(name)+1) > maxNames {
		return fmt.Errorf("cannot store %d more descriptors: the store is full", len(files))
	}
	var fds []int
	for _, f := range files {
		fd, err := notify.Detach(f)
		if err != nil {
			closeAll(fds)
			return err
		}
		fds = append(fds, fd)
	}
	s.put(name, fds)
	return nil
}

// put makes fds the ones of that name and owns them. None leave what has the name.
func (s *store) put(name string, fds []int) {
	if len(fds) == 0 {
		return
	}
	s.remove(name)
	for _, fd := range fds {
		*s = append(*s, stored{name, fd})
	}
}

// take gives away the descriptors of that name.
func (s *store) take(name string) []int {
	fds := s.find(name)
	*s = slices.DeleteFunc(*s, func(e stored) bool { return e.name == name })
	return fds
}

func (s store) find(name string) (fds []int) {
	for _, e := range s {
		if e.name == name {
			fds = append(fds, e.fd)
		}
	}
	return fds
}

func (s *store) remove(name string) {
	*s = slices.DeleteFunc(*s, func(e stored) bool {
		if e.name == name {
			unix.Close(e.fd)
		}
		return e.name == name
	})
}

func (s *store) clear() {
	for _, e := range *s {
		unix.Close(e.fd)
	}
	*s = nil
}

func (s store) descriptors() (fds []uintptr) {
	for _, e := range s {
		fds = append(fds, uintptr(e.fd))
	}
	return fds
}

func (s store) names() (names []string) {
	for _, e := range s {
		names = append(names, e.name)
	}
	return names
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

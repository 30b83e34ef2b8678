package main

import (
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
)

// goroutines counts those of another Go process, without asking it: it reads the
// runtime's list of them in its memory. The program needs its debug information.
func goroutines(pid int) (int, error) {
	n, err := countGoroutines(pid)
	if err != nil {
		return 0, fmt.Errorf("cannot count the goroutines of pid %d: %w", pid, err)
	}
	return n, nil
}

// dead is the runtime's status of a goroutine that is over and kept for reuse.
const dead = 6

func countGoroutines(pid int) (int, error) {
	file, err := elf.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if file.Type != elf.ET_EXEC {
		return 0, errors.New("its program may lie anywhere in memory (it was built with -buildmode=pie)")
	}
	list, err := addressOf(file, "runtime.allgs")
	if err != nil {
		return 0, err
	}
	status, err := offsetIn(file, "runtime.g", "atomicstatus")
	if err != nil {
		return 0, err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	word := func(at uint64) (uint64, error) {
		var b [8]byte
		_, err := memory.ReadAt(b[:], int64(at))
		return binary.NativeEndian.Uint64(b[:]), err
	}
	first, err1 := word(list)
	length, err2 := word(list + 8)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	alive := 0
	for i := range length {
		g, err := word(first + 8*i)
		if err != nil {
			return 0, err
		}
		value, err := word(g + status)
		if err != nil {
			return 0, err
		}
		if uint32(value) != dead {
			alive++
		}
	}
	return alive, nil
}

func addressOf(file *elf.File, name string) (uint64, error) {
	symbols, err := file.Symbols()
	if err != nil {
		return 0, err
	}
	for _, s := range symbols {
		if s.Name == name {
			return s.Value, nil
		}
	}
	return 0, fmt.Errorf("its program has no %s", name)
}

// offsetIn is where a field lies in a struct.
func offsetIn(file *elf.File, of, field string) (uint64, error) {
	data, err := file.DWARF()
	if err != nil {
		return 0, err
	}
	entries := data.Reader()
	for {
		entry, err := entries.Next()
		if err != nil {
			return 0, err
		}
		if entry == nil {
			return 0, fmt.Errorf("its program does not say what %s is", of)
		}
		name, _ := entry.Val(dwarf.AttrName).(string)
		if entry.Tag != dwarf.TagStructType || name != of {
			if entry.Tag == dwarf.TagSubprogram {
				entries.SkipChildren()
			}
			continue
		}
		t, err := data.Type(entry.Offset)
		if err != nil {
			return 0, err
		}
		for _, f := range t.(*dwarf.StructType).Field {
			if strings.EqualFold(f.Name, field) {
				return uint64(f.ByteOffset), nil
			}
		}
		return 0, fmt.Errorf("its %s has no %s", of, field)
	}
}

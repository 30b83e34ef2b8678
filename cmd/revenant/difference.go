package main

import (
	"fmt"
	"slices"
	"strings"
)

// lasting are the settings that hold for the life of an instance: a reload shows
// that they differ, and leaves them as they are.
var lasting = []string{"listen", "name", "runtime-dir", "config", "log-format", "probation"}

const anew = "takes effect when the instance is started anew"

// differences lists the settings that have other values than before.
func differences(old, s *settings) (lines []string) {
	for _, name := range settingNames() {
		if !differ(old, s, name) {
			continue
		}
		note := s.where(name)
		if note == "" {
			note = string(fromDefault)
		}
		if slices.Contains(lasting, name) {
			note += "; " + anew
		}
		lines = append(lines, fmt.Sprintf("%s: %s -> %s (%s)", name, old.shown(name), s.shown(name), note))
	}
	return lines
}

func differ(old, s *settings, name string) bool {
	return !slices.Equal(old.values(name), s.values(name))
}

func (s *settings) values(name string) []string {
	values, _ := s.get(name)
	return values
}

// shown are a setting's values in a line, for a log: of variables only the names.
func (s *settings) shown(name string) string {
	separator := ","
	if name == commandKey {
		separator = " "
	}
	values := s.values(name)
	if name == secretKey {
		values = namesAlone(values)
	}
	text := strings.Join(values, separator)
	if text == "" {
		return "none"
	}
	return text
}

// keepLasting puts back what holds for the life of an instance.
func keepLasting(start, s *settings) {
	if s.file == nil || start.file == nil {
		return
	}
	for _, name := range lasting {
		if e, has := start.file.Entries[name]; has {
			s.file.Entries[name] = e
		} else {
			delete(s.file.Entries, name)
		}
	}
}

// secretKey is the setting whose values others shall not see.
const secretKey = "env"

// namesAlone puts a mark in place of the values of variables.
func namesAlone(lines []string) []string {
	names := make([]string, len(lines))
	for i, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		if names[i] = name; value != "" {
			names[i] += "=***"
		}
	}
	return names
}

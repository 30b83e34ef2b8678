package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"revenant/cmd/revenant/configfile"
	"revenant/supervisor/notify"
)

// configOption names the file. There is no default one: an instance whose
// behaviour hangs on a file that nobody named is a riddle.
var configOption = option{"config", "FILE", "", "file of settings (TOML), named as here, and command = [\"PROGRAM\", \"ARG\"]; read when the instance starts, at a reload and at an upgrade. No file is read by default"}

// commandKey is what stands behind -- on the command line: in a file a list, of
// the program and its arguments.
const commandKey = "command"

// openFile reads the configuration file that a flag or variable names, or in its
// place the text that the keeper kept of it. What is wrong with it is told by
// readOptions, with all else that is wrong.
func (s *settings) openFile(kept []byte) {
	s.file, s.faults = nil, nil
	path := s.one("config")
	if path == "" {
		return
	}
	text := kept
	if text == nil {
		var err error
		if text, err = os.ReadFile(path); err != nil {
			s.faults = s.wrong("config", path, fmt.Errorf("cannot read the configuration: %w (name a file that this user can read)", cause(err)))
			return
		}
	}
	var err error
	if s.file, err = configfile.Parse(path, text, fileKeys()); err != nil {
		s.faults = codeError{exitUsage, err}
	}
}

// openFileAgain reads it as it is now. What cannot be read twice, as a pipe, could
// make whoever waits for it wait for ever.
func (s *settings) openFileAgain() {
	path := s.one("config")
	if info, err := os.Stat(path); path != "" && err == nil && !info.Mode().IsRegular() {
		s.file, s.faults = nil, s.wrong("config", path, errors.New("cannot read the configuration again: not a regular file (start the instance anew with one)"))
		return
	}
	s.openFile(nil)
}

// fileTypes says what the kinds of options may be in a file; others are text.
var fileTypes = map[string]configfile.Type{
	"bool":    configfile.Boolean,
	"N":       configfile.Number | configfile.Text,
	"ADDRESS": configfile.Text | configfile.List,
	"SIZE":    configfile.Number | configfile.Text,
	"USER":    configfile.Number | configfile.Text,
	"GROUP":   configfile.Number | configfile.Text,

	"NAME=VALUE":       configfile.Text | configfile.List | configfile.Table,
	"N[=ADDRESS]":      configfile.Number | configfile.Text | configfile.List,
	"NAME=SOFT[:HARD]": configfile.Text | configfile.List | configfile.Table,
}

// fileKeys are the settings of run; what belongs to development alone stands in no
// file that is for both.
func fileKeys() []configfile.Key {
	keys := []configfile.Key{{Name: commandKey, Types: configfile.List, Members: configfile.Text, Example: `["gunicorn", "app:app"]`}}
	for _, o := range runOptions {
		k := configfile.Key{Name: o.name, Types: cmp.Or(fileTypes[o.kind], configfile.Text), Example: o.example()}
		if o.name == configOption.name {
			k.Refused = "a file cannot name another one (use --config or " + o.variable() + ")"
		}
		keys = append(keys, k)
	}
	// In the order of their names, so that of two that are as near the same is meant each time.
	slices.SortFunc(keys, func(a, b configfile.Key) int { return cmp.Compare(a.Name, b.Name) })
	return keys
}

// examples of values as a file has them, by the kind of the option.
var examples = map[string]string{
	"bool": "true", "N": "4", "TIME": `"30s"`, "SIZE": `"512M"`, "MASK": `"022"`, "FILE": `"/path/of/a/file"`, "DIR": `"/path/of/a/folder"`,
	"ADDRESS": `["tcp://127.0.0.1:3000"]`, "NAME=VALUE": `["RAILS_ENV=production"]`, "N[=ADDRESS]": "0", "NAME=SOFT[:HARD]": `["nofile=65536", "core=0"]`,
}

func (o option) example() string {
	return cmp.Or(examples[o.kind], fmt.Sprintf("%q", cmp.Or(o.value, o.kind)))
}

// inOrder lists errors one by one: those about the command line and the
// environment, then those in the file from top to bottom.
func inOrder(err error) error {
	if err == nil {
		return nil
	}
	all := each(err)
	slices.SortStableFunc(all, func(a, b error) int {
		p, q := configfile.PlaceOf(a), configfile.PlaceOf(b)
		return cmp.Or(cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
	})
	return codeError{exitUsage, errors.Join(all...)}
}

// each takes apart what was joined.
func each(err error) []error {
	if coded, is := err.(codeError); is {
		err = coded.error
	}
	joined, is := err.(interface{ Unwrap() []error })
	if !is {
		return []error{err}
	}
	var all []error
	for _, one := range joined.Unwrap() {
		all = append(all, each(one)...)
	}
	return all
}

// readOptions reads the settings of a master: the same command line and
// environment as the keeper had, and the file and the token as the keeper keeps
// them. What a later master cannot understand is left out, for workers serve that
// it must not leave alone.
func (in inheritance) readOptions(s *settings) (o instanceOptions, leftOut []error, err error) {
	start, err := in.text(keptConfiguration)
	if err != nil {
		return o, nil, err
	}
	inForce, err := in.inForce()
	if err != nil {
		return o, nil, err
	}
	token, err := in.text(keptToken)
	if err != nil {
		return o, nil, err
	}
	s.token = string(token)
	s.openFile(start)
	if inForce != nil {
		first := *s
		s.openFile(inForce)
		keepLasting(&first, s)
	}
	if o, err = readOptions(s); err != nil && in.generation > 1 {
		leftOut = s.forgive(err)
		o, err = readOptions(s)
	}
	if fd := named(in.stored, keptToken); fd >= 0 {
		o.tokenPath = memoryPath(fd)
	}
	return o, leftOut, err
}

// inForce is the text of the last reload or upgrade, nil when there was none. When
// an upgrade was given up, it is what was in force before that, and from now on again.
func (in inheritance) inForce() (text []byte, err error) {
	if os.Getenv(notify.RolledBackVariable) != "" {
		if text, err = in.text(keptBefore); err != nil {
			return nil, err
		}
	}
	if text == nil {
		return in.text(keptReloaded)
	}
	in.keepText(keptReloaded, text)
	_ = in.keeper.Send(notify.RemoveFD, notify.FDName(keptBefore))
	return text, nil
}

// forgive makes an older master's configuration one that this binary can begin
// with: what it does not understand is left out. It is for masters that must not
// fail, because workers serve and wait for them: after a crash, or when a newer
// binary was given up. What it left out is returned.
func (s *settings) forgive(err error) (leftOut []error) {
	if s.file == nil {
		return nil
	}
	for _, e := range each(err) {
		if p := new(configfile.Problem); errors.As(e, &p) {
			delete(s.file.Entries, p.Key)
			leftOut = append(leftOut, e)
		}
	}
	s.faults = nil
	return leftOut
}

package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"revenant/supervisor"
	"revenant/supervisor/cgroup"
	"revenant/supervisor/notify"
)

// rereader reads the settings again for a reload: the command line and the
// environment are what they were, the file is read anew, and the CPUs and the
// memory that we may use are asked anew.
type rereader struct {
	in       inheritance
	inForce  instanceOptions
	workers  int              // in force, 0 when this process has started none yet
	token    notify.NamedFile // in force, FD -1 when this process did not make it
	read     *reading         // what reread returned last
	unkept   bool             // the keeper does not have yet what is in force
	newToken bool             // nor the token
	before   []byte           // the file in force under the master before an upgrade
}

func newRereader(o instanceOptions, in inheritance, workers int) *rereader {
	return &rereader{in: in, inForce: o, workers: workers, token: notify.NamedFile{FD: -1}}
}

// anew reads the settings again for a master that follows an upgrade: it begins
// with what the file says now, and refuses to begin when anything is wrong. It
// returns a line for each setting that differs.
func (r *rereader) anew() (changes []string, err error) {
	if file := r.inForce.settings.file; file != nil {
		r.before = file.Text
	}
	_, changes, err = r.reread()
	if err != nil {
		return nil, err
	}
	r.adopt()
	return changes, nil
}

// reading is what a reload has read and not yet put in force.
type reading struct {
	options instanceOptions
	workers int
	token   notify.NamedFile // new, FD -1 when it is what it was
}

// reread returns the settings and a line for each that differs. Until applied is
// called, nothing of it is in force.
func (r *rereader) reread() (supervisor.Settings, []string, error) {
	r.drop()
	old := r.inForce.settings
	s := &settings{flags: old.flags, options: old.options, command: old.command}
	s.openFileAgain()
	if !differ(old, s, "chaos-token-file") {
		s.token = r.inForce.token
	}
	o, err := readOptions(s)
	if err == nil {
		err = checkProgram(o)
	}
	if err != nil {
		return supervisor.Settings{}, nil, err
	}
	changes := differences(old, s)
	keepLasting(old, s)
	s.token = o.token
	if o, err = readOptions(s); err != nil {
		return supervisor.Settings{}, nil, err
	}
	next := &reading{options: o, token: notify.NamedFile{FD: -1}}
	if err := next.keepToken(r.inForce); err != nil {
		return supervisor.Settings{}, nil, err
	}
	r.read = next
	host := cgroup.Self()
	result, why := masterSettings(next.options, host.CPUs(), host.Memory())
	if next.workers = result.Workers; r.workers != 0 && next.workers != r.workers && !differ(old, s, "workers") {
		changes = append(changes, fmt.Sprintf("workers: %d -> %d (%s)", r.workers, next.workers, why))
	}
	return result, changes, nil
}

// keepToken puts a token that is new where workers can read it.
func (n *reading) keepToken(inForce instanceOptions) (err error) {
	if n.options.token == inForce.token {
		n.options.tokenPath = inForce.tokenPath
		return nil
	}
	n.options.tokenPath = ""
	if n.options.token == "" {
		return nil
	}
	if n.token, err = inMemory(keptToken, []byte(n.options.token)); err == nil {
		n.options.tokenPath = memoryPath(n.token.FD)
	}
	return err
}

// applied is called when what was read is in force, and, after an upgrade, when
// this master is in charge: from now on it is also what a later master goes on with.
func (r *rereader) applied() {
	r.adopt()
	if !r.unkept {
		return
	}
	r.unkept = false
	if file := r.inForce.settings.file; file != nil {
		r.in.keepText(keptReloaded, file.Text)
	}
	if r.before != nil {
		r.in.keepText(keptBefore, r.before)
		r.before = nil
	}
	if r.newToken {
		r.newToken = false
		r.keepToken()
	}
}

// list is what is in force, for operators.
func (r *rereader) list() []supervisor.Setting {
	list := effective(r.inForce.settings)
	for i := range list {
		if list[i].Name == secretKey {
			list[i].Values = namesAlone(list[i].Values)
		}
	}
	return list
}

// adopt makes what was read what is in force here.
func (r *rereader) adopt() {
	next := r.read
	if next == nil {
		return
	}
	if next.options.tokenPath != r.inForce.tokenPath {
		if r.token.FD >= 0 {
			_ = unix.Close(r.token.FD)
		}
		// It stays open, for workers to read.
		r.token, r.newToken = next.token, true
	}
	r.inForce, r.workers, r.read, r.unkept = next.options, next.workers, nil, true
}

// keepToken has the keeper keep another token, or none.
func (r *rereader) keepToken() {
	if r.token.FD < 0 {
		_ = r.in.keeper.Send(notify.RemoveFD, notify.FDName(keptToken))
		return
	}
	_ = r.in.keeper.SendFiles([]int{r.token.FD}, notify.StoreFD, notify.FDName(keptToken))
}

// drop forgets what was read and did not come into force.
func (r *rereader) drop() {
	if r.read != nil && r.read.token.FD >= 0 {
		_ = unix.Close(r.read.token.FD)
	}
	r.read = nil
}

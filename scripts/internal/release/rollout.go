package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"revenant/nginx"
)

// A fleet is what runs the instances.
type fleet interface {
	// members are those to be replaced, and spare is the standby.
	members() []member
	spare() member
	// version names what is new, versionOf what a member runs now.
	version() string
	versionOf(m member) string
	// raise makes the standby run the new version, where nginx has it if it is started for that; it
	// changes nothing when that fails.
	raise(ctx context.Context, at string) error
	// lower makes the standby what it was, running or not.
	lower(ctx context.Context) error
	// swap ends a member and starts its successor. When that does not come up the former is started
	// again; the error is a goneError when that fails too.
	swap(ctx context.Context, m member) error
}

// A member is an instance and where nginx finds it.
type member struct {
	name      string
	addresses []string // any of these, as a server directive writes it
	runs      bool
}

// goneError says that an instance is not there any more.
type goneError struct{ error }

// rollout is a release under way.
type rollout struct {
	fleet            fleet
	site             *nginx.Site
	servers, standby nginx.Servers
	at               map[string]string // the address in servers.conf by the name of the member
	spareAt          string
	dry              bool
	lock             *os.File
}

func newRollout(f fleet, site *nginx.Site, dry bool) (*rollout, error) {
	r := &rollout{fleet: f, site: site, dry: dry, at: map[string]string{}}
	var err error
	if r.servers, err = readServers(site.Dir, "servers.conf"); err != nil {
		return nil, err
	}
	if r.standby, err = readServers(site.Dir, "standby.conf"); err != nil {
		return nil, err
	}
	if err := r.place(); err != nil {
		return nil, err
	}
	if r.lock, err = os.Open(site.Dir); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(r.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("another release is under way (it has locked %s)", site.Dir)
	}
	if dry {
		return r, nil
	}
	return r, site.Tidy()
}

func readServers(dir, name string) (nginx.Servers, error) {
	path := filepath.Join(dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return nginx.Servers{}, fmt.Errorf("cannot read the servers of nginx: %w", err)
	}
	s, err := nginx.ParseServers(text)
	if err != nil {
		return s, fmt.Errorf("cannot use %s: %w", path, err)
	}
	return s, nil
}

// place finds each member in nginx's files, which must be as no release has left them.
func (r *rollout) place() error {
	for _, m := range r.fleet.members() {
		at := find(r.servers, m)
		if at == "" {
			return fmt.Errorf("%s listens on %s, and servers.conf lists %s: name instances that nginx asks",
				m.name, strings.Join(m.addresses, ", "), strings.Join(r.servers.Addresses(), ", "))
		}
		if r.servers.Has(at, "down") {
			return fmt.Errorf("servers.conf in %s marks %s down, as a release does that was killed: see that %s serves, take the mark away, and have nginx reload",
				r.site.Dir, at, m.name)
		}
		r.at[m.name] = at
	}
	spare := r.fleet.spare()
	if r.spareAt = find(r.standby, spare); r.spareAt == "" && spare.runs {
		return fmt.Errorf("%s listens on %s, and standby.conf lists %s", spare.name, strings.Join(spare.addresses, ", "), strings.Join(r.standby.Addresses(), ", "))
	}
	if r.spareAt == "" {
		r.spareAt = r.standby.Addresses()[0]
	}
	if !r.standby.Has(r.spareAt, "backup") {
		return fmt.Errorf("standby.conf in %s has %s without the word backup, as a release leaves it that was killed: add it, and have nginx reload", r.site.Dir, r.spareAt)
	}
	return nil
}

func find(s nginx.Servers, m member) string {
	for _, at := range s.Addresses() {
		for _, address := range m.addresses {
			if at == address {
				return at
			}
		}
	}
	return ""
}

func (r *rollout) unlock() { _ = r.lock.Close() }

func (r *rollout) say(format string, args ...any) {
	if r.dry {
		fmt.Printf("would: "+format+"\n", args...)
		return
	}
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func (r *rollout) run(ctx context.Context) error {
	spare := r.fleet.spare()
	r.say("start %s on %s, the backup at %s", spare.name, r.fleet.version(), r.spareAt)
	err := r.do(ctx, func(ctx context.Context) error {
		if err := r.site.Running.Check(ctx); err != nil {
			return err
		}
		return r.fleet.raise(ctx, r.spareAt)
	})
	if err != nil {
		return fmt.Errorf("%w\nNothing was changed: nginx and the instances are as they were. Mend that and release again.", err)
	}
	for _, m := range r.fleet.members() {
		r.say("nginx: %s takes the share of %s (%s)", spare.name, m.name, r.at[m.name])
		err := r.do(ctx, func(ctx context.Context) error { return r.route(ctx, &m) })
		if err == nil {
			r.say("drain %s (%s), and start it on %s", m.name, r.fleet.versionOf(m), r.fleet.version())
			// Half of a swap is what nobody wants: it comes to its end, whoever says stop.
			err = r.do(context.WithoutCancel(ctx), func(ctx context.Context) error { return r.fleet.swap(ctx, m) })
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return r.abandon(context.WithoutCancel(ctx), m, err)
		}
	}
	r.say("nginx: all instances again, %s is the backup", spare.name)
	if err := r.do(ctx, func(ctx context.Context) error { return r.route(ctx, nil) }); err != nil {
		return fmt.Errorf("%w\nAll instances run %s. %s still has a share and was left running: mend that, write the word backup back into standby.conf and no server down in servers.conf, have nginx reload, and stop it",
			err, r.fleet.version(), spare.name)
	}
	r.say("%s is what it was", spare.name)
	if err := r.do(ctx, r.fleet.lower); err != nil {
		return fmt.Errorf("%w\nAll instances run %s, and nginx is as it was: only %s needs your hand.", err, r.fleet.version(), spare.name)
	}
	if !r.dry {
		r.say("released %s", r.fleet.version())
	}
	return nil
}

func (r *rollout) do(ctx context.Context, step func(context.Context) error) error {
	if r.dry {
		return nil
	}
	return step(ctx)
}

// route has nginx ask everybody but one, whose share the standby takes. With
// nobody out, the standby is the backup.
func (r *rollout) route(ctx context.Context, out *member) error {
	servers, standby := r.servers, r.standby
	if out != nil {
		servers = servers.With(r.at[out.name], "down")
		standby = standby.Without(r.spareAt, "backup")
	}
	_, err := r.site.Change(ctx, map[string][]byte{"servers.conf": servers.Text(), "standby.conf": standby.Text()})
	return err
}

// abandon gives the release up with whatever serves left to serve.
func (r *rollout) abandon(ctx context.Context, m member, cause error) error {
	spare := r.fleet.spare()
	if gone := new(goneError); errors.As(cause, gone) {
		return fmt.Errorf("%w\n%s IS NOT RUNNING. %s has its share and was left running. Start %s, take the word down from servers.conf, write backup back into standby.conf, have nginx reload, and stop %s.",
			cause, m.name, spare.name, m.name, spare.name)
	}
	r.say("gives up; nginx: all instances again, %s is the backup", spare.name)
	if err := r.route(ctx, nil); err != nil {
		return fmt.Errorf("%w\nAnd nginx could not be told to go back: %w\nEvery instance serves, and %s was left running. Mend that, see that servers.conf marks nobody down and standby.conf says backup, and have nginx reload.", cause, err, spare.name)
	}
	if err := r.fleet.lower(ctx); err != nil {
		cause = errors.Join(cause, err)
	}
	return fmt.Errorf("%w\nGiven up: nginx is as it was and every instance serves.%s Mend that and release again.", cause, r.mixed())
}

// mixed says who runs what, after some were replaced.
func (r *rollout) mixed() string {
	var parts []string
	for _, m := range r.fleet.members() {
		parts = append(parts, m.name+" runs "+r.fleet.versionOf(m))
	}
	return " " + strings.Join(parts, ", ") + "."
}

package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"revenant/supervisor/event"
	"revenant/supervisor/sockdiag"
	"revenant/supervisor/tree"
)

// looks is what two looks at a worker saw, a second apart.
type looks struct {
	shows         bool
	before, after seen
}

// busy is a worker that computes for a client and sees to nothing else.
func busy() looks {
	one := func(cpu uint64) seen {
		return seen{state: 'R', work: &work{
			served:  map[uint64]sockdiag.Traffic{7: {Received: 90, Sent: 5}},
			owes:    true,
			threads: map[int]tree.Thread{1: {ID: 1, CPU: cpu, Sleeps: 3}, 2: {ID: 2, Sleeps: 9, Deadlocked: true}},
		}}
	}
	return looks{true, one(10), one(20)}
}

func (l looks) with(change func(*looks)) looks { change(&l); return l }

func TestWorkerIsTakenToSpinOnlyWhenEveryProofIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		looks looks
		signs []sign
	}{
		"it spins": {busy(), []sign{away, still, spinning}},
		"the program waits in a way that does not show": {busy().with(func(l *looks) { l.shows = false }), nil},
		"it waits for connections":                      {busy().with(func(l *looks) { l.after.waits = true }), nil},
		"it cannot be seen":                             {busy().with(func(l *looks) { l.after.work = nil }), nil},
		"it could not be seen before":                   {busy().with(func(l *looks) { l.before.work = nil }), []sign{away}},
		"it took a connection": {busy().with(func(l *looks) {
			l.after.work.served[8] = sockdiag.Traffic{}
		}), []sign{away}},
		"it read": {busy().with(func(l *looks) {
			l.after.work.served[7] = sockdiag.Traffic{Received: 91, Sent: 5}
		}), []sign{away}},
		"nobody waits for an answer": {busy().with(func(l *looks) { l.after.work.owes = false }), []sign{away, still}},
		"its thread slept": {busy().with(func(l *looks) {
			l.after.work.threads[1] = tree.Thread{ID: 1, CPU: 20, Sleeps: 4}
		}), []sign{away, still}},
		"another of its threads awoke, which may take connections": {busy().with(func(l *looks) {
			l.after.work.threads[2] = tree.Thread{ID: 2, Sleeps: 10}
		}), []sign{away, still}},
		"another of its threads is new": {busy().with(func(l *looks) {
			l.after.work.threads[3] = tree.Thread{ID: 3}
		}), []sign{away, still}},
		"a thread of another process awoke": {busy().with(func(l *looks) {
			l.before.work.threads[3] = tree.Thread{ID: 3, Process: 3}
			l.after.work.threads[3] = tree.Thread{ID: 3, Process: 3, Sleeps: 1}
		}), []sign{away, still, spinning}},
		"it used no CPU": {busy().with(func(l *looks) {
			l.after.work.threads[1] = l.before.work.threads[1]
		}), []sign{away, still}},
		"all its threads wait for each other": {busy().with(func(l *looks) {
			l.after.work.threads[1] = tree.Thread{ID: 1, CPU: 10, Sleeps: 4, Deadlocked: true}
		}), []sign{away, still, deadlocked}},
		"it has no thread, it is dying": {busy().with(func(l *looks) { clear(l.after.work.threads) }), []sign{away, still}},
	} {
		t.Run(name, func(t *testing.T) {
			l, first := life{}, time.Now()
			l.compare(c.looks.before, c.looks.shows, first)
			l.compare(c.looks.after, c.looks.shows, first.Add(time.Second))
			want := map[sign]bool{}
			for _, s := range c.signs {
				want[s] = true
			}
			for s := away; s < signs; s++ {
				if !l.dead[s].IsZero() != want[s] {
					t.Errorf("sign %d is %t", s, !want[s])
				}
			}
			if want[spinning] && !l.dead[spinning].Equal(first) {
				t.Error("it spins since the first of the two looks")
			}
		})
	}
}

func TestWorkerThatAnsweredAProbeIsNotTakenToDoNothingHoweverItLooks(t *testing.T) {
	m, l := newMaster(Config{}, newWorld(nil).platform()), busy()
	c := &child{}
	m.children[1] = c
	c.life.compare(l.before, true, time.Now())
	c.life.compare(l.after, true, time.Now())
	if c.life.dead[still].IsZero() || c.life.dead[spinning].IsZero() {
		t.Fatal("it does not look so")
	}
	m.answered(1, "/", &StatusError{503})
	if c.life.dead[still].IsZero() || c.life.dead[spinning].IsZero() {
		t.Error("a bad answer was believed")
	}
	m.answered(1, "/", nil)
	for s := still; s < signs; s++ {
		if !c.life.dead[s].IsZero() {
			t.Errorf("sign %d stays", s)
		}
	}
}

// A look may be late: the machine is busy, /proc is slow, there are many workers.
func TestWorkerIsNotJudgedByAnOldLook(t *testing.T) {
	const interval = 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		m := newMaster(Config{Settings: Settings{Liveness: interval}}, newWorld(nil).platform())
		m.children[1] = &child{id: 1, door: -1, gone: make(chan struct{}), ready: time.Now(), life: life{interval: interval}}
		look := func(began time.Time) { m.saw(map[uint64]seen{1: {state: 'T'}}, nil, began) }
		hung := func() bool {
			for _, e := range m.Events().Since(0) {
				if e.Kind == event.WorkerHung {
					return true
				}
			}
			return false
		}
		look(time.Now())
		time.Sleep(2 * interval)
		m.keepWatch(time.Now())
		if hung() {
			t.Error("it is taken for hung, and was last looked at before its interval passed")
		}
		look(time.Now().Add(-3 * interval / 2))
		if hung() {
			t.Error("it is taken for hung by a look that began before its interval passed")
		}
		look(time.Now())
		if !hung() {
			t.Error("it was stopped at two looks an interval apart, and is not taken for hung")
		}
	})
}

func TestIdleWorkerNeglectsAQueueOnlyWhenItHasNoOtherDuty(t *testing.T) {
	stuck := map[string]string{"a": "1 connections wait on a"}
	for name, c := range map[string]struct {
		seen    seen
		owes    string
		hidden  bool // it waits in a way that does not show
		several bool // listeners
		want    bool
	}{
		"it waits at this listener, and takes none":   {seen: seen{waits: true, elsewhere: map[string]bool{"a": false, "b": true}}, want: true},
		"it has this listener alone":                  {seen: seen{waits: true}, want: true},
		"it does not wait, and serves nobody":         {seen: seen{work: &work{owes: false}}, want: true},
		"how it waits does not show":                  {seen: seen{work: &work{}}, hidden: true, want: true},
		"nor at which of the listeners":               {seen: seen{work: &work{}}, hidden: true, several: true},
		"it serves another listener":                  {seen: seen{waits: true, elsewhere: map[string]bool{"a": true}}},
		"it waits for somebody else, a client for it": {seen: seen{work: &work{busy: true}}, want: true},
		"of several listeners it may serve another":   {seen: seen{work: &work{busy: true}}, several: true},
		"it cannot be seen":                           {want: true},
		"nor which listener it serves":                {several: true},
		"it speaks for itself":                        {seen: seen{work: &work{}}, owes: "it did not say WATCHDOG=1"},
	} {
		if why := (&child{life: life{owes: c.owes}}).neglects(c.seen, stuck, !c.hidden, c.several); (why != "") != c.want {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// What was learned of the program while it ran well holds for the workers that stay.
func TestFormerWorkersAreWatchedAsBeforeWhenAReloadFails(t *testing.T) {
	cfg := rereading(Config{Settings: Settings{Workers: 2}}, same)
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.commands <- func() { i.vigil.waits, i.vigil.answers = true, true }
		i.world.behaves(crash(time.Millisecond, exitStatus(3)))
		op := i.reloadNow()
		i.pass(time.Second)
		if err := ended(t, op); err == nil {
			t.Fatal("the reload did not fail")
		}
		i.commands <- func() {
			if !i.vigil.waits || !i.vigil.answers {
				t.Errorf("forgotten: %+v", i.vigil.acquaintance)
			}
		}
	})
}

// The twin.
func TestNewProgramIsNotJudgedByWhatIsKnownOfTheFormer(t *testing.T) {
	cfg := rereading(Config{Settings: Settings{Workers: 2}}, same)
	inBubble(t, cfg, serve(time.Millisecond, 0), func(i *fakeInstance) {
		i.pass(time.Second)
		i.commands <- func() { i.vigil.waits, i.vigil.answers = true, true }
		op := i.reloadNow()
		i.pass(time.Second)
		if err := ended(t, op); err != nil {
			t.Fatal(err)
		}
		i.commands <- func() {
			if i.vigil.waits || i.vigil.answers {
				t.Errorf("taken over: %+v", i.vigil.acquaintance)
			}
		}
	})
}

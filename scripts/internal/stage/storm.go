package stage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"revenant/scripts/ledger"
)

// Storm kills ready workers, one per tick, of whichever instance.
type Storm struct {
	Watches []*Watch
	Every   time.Duration
	Signal  syscall.Signal
}

// Strike is one kill of a storm.
type Strike struct {
	Watch  *Watch
	Worker Worker
	Time   time.Time
}

// Run strikes until ctx ends. A tick that finds nobody ready strikes nobody.
func (s Storm) Run(ctx context.Context) ([]Strike, error) {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	var strikes []Strike
	for {
		select {
		case <-ctx.Done():
			return strikes, nil
		case <-tick.C:
		}
		var targets []Strike
		for _, watch := range s.Watches {
			for _, worker := range watch.Ready() {
				targets = append(targets, Strike{Watch: watch, Worker: worker})
			}
		}
		if len(targets) == 0 {
			continue
		}
		strike := targets[rand.IntN(len(targets))]
		strike.Time = time.Now()
		if err := Kill(strike.Worker.PID, s.Signal); err != nil {
			return strikes, err
		}
		// It is not ready any longer, though its exit is not told yet.
		strike.Watch.forget(strike.Worker.Worker)
		strikes = append(strikes, strike)
	}
}

func (w *Watch) forget(worker uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ready, worker)
}

// Exits waits for the exit event of every strike.
func Exits(ctx context.Context, strikes []Strike) ([]Event, error) {
	var exits []Event
	for _, strike := range strikes {
		exit, err := strike.Watch.AwaitExit(ctx, strike.Worker.Worker)
		if err != nil {
			return exits, err
		}
		exits = append(exits, exit)
	}
	return exits, nil
}

// Account is how the failures that clients saw compare with what the events of
// the dead workers say was in flight.
type Account struct {
	InFlight  int              // on all the dead together
	Explained int              // failures that happened on a worker when it died
	Open      []ledger.Failure // failures that no death explains
}

// within is how far the end of a failed request and the exit event of its
// worker may lie apart: the client sees the one, the master the other.
const within = 250 * time.Millisecond

// AccountFor finds for each failure a death that explains it: at the same time,
// and with a request in flight that no other failure has claimed. On kept
// connections a request may also have reached the worker unread.
func AccountFor(failures []ledger.Failure, exits []Event, keepAlive bool) Account {
	var account Account
	room := make([]int, len(exits))
	for i, exit := range exits {
		account.InFlight += exit.InFlight + exit.Accepting
		room[i] = exit.InFlight + exit.Accepting
		if keepAlive {
			room[i] += exit.Idle
		}
	}
	for _, failure := range failures {
		nearest, distance := -1, within
		for i, exit := range exits {
			if d := failure.End.Sub(exit.Time).Abs(); room[i] > 0 && d <= distance && isLoss(failure.Class) {
				nearest, distance = i, d
			}
		}
		if nearest < 0 {
			account.Open = append(account.Open, failure)
			continue
		}
		room[nearest]--
		account.Explained++
	}
	return account
}

// isLoss says whether the death of a worker can be the cause: a refusal or a
// wrong answer has another one.
func isLoss(class ledger.Class) bool {
	return slices.Contains([]ledger.Class{ledger.Reset, ledger.Empty, ledger.Cut}, class)
}

func (a Account) String() string {
	return fmt.Sprintf("%d in flight on the dead, %d failures explained by that, %d unexplained", a.InFlight, a.Explained, len(a.Open))
}

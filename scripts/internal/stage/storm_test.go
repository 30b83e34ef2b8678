package stage

import (
	"testing"
	"time"

	"revenant/scripts/ledger"
)

func TestEachFailureClaimsOneRequestInFlight(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	failure := func(class ledger.Class, ms int) ledger.Failure { return ledger.Failure{Class: class, End: at(ms)} }
	exits := []Event{
		{Time: at(100), InFlight: 1},
		{Time: at(200), InFlight: 1, Accepting: 1, Idle: 1},
	}
	for _, test := range []struct {
		name      string
		failures  []ledger.Failure
		keepAlive bool
		explained int
	}{
		{name: "none"},
		{name: "as many as were in flight", failures: []ledger.Failure{failure(ledger.Reset, 99), failure(ledger.Cut, 199), failure(ledger.Empty, 201)}, explained: 3},
		{name: "one more", failures: []ledger.Failure{failure(ledger.Reset, 99), failure(ledger.Reset, 199), failure(ledger.Reset, 200), failure(ledger.Reset, 201)}, explained: 3},
		{name: "one more on a kept connection", failures: []ledger.Failure{failure(ledger.Reset, 99), failure(ledger.Reset, 199), failure(ledger.Reset, 200), failure(ledger.Reset, 201)}, keepAlive: true, explained: 4},
		{name: "at another time", failures: []ledger.Failure{failure(ledger.Reset, 600)}},
		{name: "of another kind", failures: []ledger.Failure{failure(ledger.Refused, 100), failure(ledger.Timeout, 100), failure(ledger.ConnectTimeout, 100), failure(ledger.Status, 100)}},
	} {
		account := AccountFor(test.failures, exits, test.keepAlive)
		if account.InFlight != 3 || account.Explained != test.explained || len(account.Open) != len(test.failures)-test.explained {
			t.Errorf("%s: %v, want 3 in flight and %d explained", test.name, account, test.explained)
		}
	}
}

func TestKillRefusesWhatIsNoProcessOfAnInstance(t *testing.T) {
	for _, pid := range []int{-1, 0, 1} {
		if err := Kill(pid, 0); err == nil {
			t.Errorf("Kill(%d) went on", pid)
		}
	}
}

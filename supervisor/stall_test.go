package supervisor

import "testing"

func TestQueueStandsStillOnlyWhenNobodyTookAny(t *testing.T) {
	q := queue{first: []string{"a", "b"}}
	for _, c := range []struct {
		waiting []string
		moved   bool
	}{
		{[]string{"a", "b"}, false},
		{[]string{"a", "b", "c"}, false}, // it grew
		{[]string{"b", "c"}, true},       // a was taken
		{nil, true},
	} {
		if got := q.moved(c.waiting); got != c.moved {
			t.Errorf("from %v to %v: moved %t", q.first, c.waiting, got)
		}
	}
	if q := (queue{}); !q.moved([]string{"a"}) {
		t.Error("a queue that was empty did not move")
	}
}

package main

import (
	"strings"
	"testing"

	"revenant/supervisor/supervisortest"
)

func TestEventsSinceOneOfAnEarlierInstanceAreAllOfThisOne(t *testing.T) {
	i := supervisortest.Start(t, "--workers", "1")
	all, _, _ := client(i, t, "events")
	since, _, code := client(i, t, "events", "--since", "100000")
	if code != exitOK || since != all || !strings.Contains(all, "master.started") {
		t.Errorf("events --since 100000 exits with %d and says\n%swant\n%s", code, since, all)
	}
}

package event

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestSubscriberSeesEveryEventOnceAndInOrder(t *testing.T) {
	var b Bus
	for range 10 {
		b.Publish(Event{Kind: WorkerStarted})
	}
	past, s := b.Subscribe(4, 100)
	defer s.Close()
	var publishers sync.WaitGroup
	for range 4 {
		publishers.Add(1)
		go func() { // ends after its ten; waited for below
			defer publishers.Done()
			for range 10 {
				b.Publish(Event{Kind: WorkerReady})
			}
		}()
	}
	publishers.Wait()
	want := uint64(5)
	for _, e := range past {
		if e.ID != want {
			t.Fatalf("replayed event %d, want %d", e.ID, want)
		}
		want++
	}
	for want <= 50 {
		e := <-s.Events()
		if e.ID != want {
			t.Fatalf("live event %d, want %d", e.ID, want)
		}
		want++
	}
}

func TestSlowSubscriberIsToldHowManyItLostAndNeverHoldsUpThePublisher(t *testing.T) {
	var b Bus
	_, s := b.Subscribe(0, 4)
	for range 100 {
		b.Publish(Event{Kind: WorkerStarted}) // would deadlock if publishing waited
	}
	seen := 0
	for range 4 {
		<-s.Events()
		seen++
	}
	b.Publish(Event{Kind: WorkerReady})
	notice := <-s.Events()
	if notice.Kind != Lost || notice.Count != 96 {
		t.Fatalf("after %d events of 100: %s with count %d, want %s with 96", seen, notice.Kind, notice.Count, Lost)
	}
	if e := <-s.Events(); e.Kind != WorkerReady || e.ID != 101 {
		t.Fatalf("after the notice: %s %d, want %s 101", e.Kind, e.ID, WorkerReady)
	}
	s.Close()
	s.Close()
	if _, open := <-s.Events(); open {
		t.Fatal("a closed subscription still delivers")
	}
}

func TestRingKeepsTheNewest(t *testing.T) {
	var b Bus
	for range ringSize + 100 {
		b.Publish(Event{Kind: WorkerStarted})
	}
	got := b.Since(0)
	if len(got) != ringSize || got[0].ID != 101 || got[len(got)-1].ID != ringSize+100 {
		t.Fatalf("ring holds %d events from %d to %d", len(got), got[0].ID, got[len(got)-1].ID)
	}
	if rest := b.Since(ringSize + 100); rest != nil {
		t.Fatalf("nothing is newer than the newest, got %d events", len(rest))
	}
}

func TestExitEventIsFlatJSONWithExplicitZeros(t *testing.T) {
	slot := 0
	text, err := json.Marshal(Event{Kind: WorkerExited, Slot: &slot, Worker: 3, Exit: &Exit{Cause: "signal KILL"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"slot":0`, `"cause":"signal KILL"`, `"planned":false`, `"in_flight":0`, `"accepting":0`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
}

func TestHumaneDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 12 * time.Millisecond: "12ms", 1400 * time.Millisecond: "1.4s",
		59 * time.Second: "59s", 182 * time.Second: "3m2s", 26 * time.Hour: "1d2h", 3*time.Hour + time.Minute: "3h1m",
	} {
		if got := Humane(d); got != want {
			t.Errorf("Humane(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestNumbersContinueAfterARestart(t *testing.T) {
	var b Bus
	b.Continue(5000)
	if got := b.Since(0); got != nil {
		t.Errorf("%d events before the first", len(got))
	}
	b.Publish(Event{Kind: MasterStarted})
	b.Publish(Event{Kind: MasterReady})
	if got := b.Since(0); len(got) != 2 || got[0].ID != 5001 {
		t.Errorf("events %+v", got)
	}
	if got := b.Since(5001); len(got) != 1 || got[0].ID != 5002 {
		t.Errorf("events after 5001: %+v", got)
	}
}

func TestEventsThatAreHeldFollowUponThoseOfTheMasterBefore(t *testing.T) {
	var b Bus
	b.Hold()
	if e := b.Publish(Event{Kind: WorkerStarted}); e.ID != 0 || e.Time.IsZero() {
		t.Errorf("a held event has ID %d and time %v", e.ID, e.Time)
	}
	past, live := b.Subscribe(0, 8)
	defer live.Close()
	if len(past) > 0 {
		t.Errorf("held events are shown: %v", past)
	}
	b.Publish(Event{Kind: WorkerReady})
	if last := b.Release(40); last != 42 {
		t.Errorf("the last event released is %d, want 42", last)
	}
	for i, want := range []Kind{WorkerStarted, WorkerReady} {
		if e := <-live.Events(); e.Kind != want || e.ID != uint64(41+i) {
			t.Errorf("event %d is %s, want %d, %s", e.ID, e.Kind, 41+i, want)
		}
	}
	if e := b.Publish(Event{}); e.ID != 43 {
		t.Errorf("the next event is %d, want 43", e.ID)
	}
	// Released once: another time changes nothing.
	if last := b.Release(7); last != 43 {
		t.Errorf("a second release leads to %d", last)
	}
}

func TestOfVeryManyHeldEventsTheNewestAreKept(t *testing.T) {
	var b Bus
	b.Hold()
	for n := range 3 * ringSize {
		b.Publish(Event{Count: n})
	}
	b.Release(0)
	kept := b.Since(0)
	if len(kept) != ringSize || kept[ringSize-1].Count != 3*ringSize-1 {
		t.Errorf("%d events are kept, the last of them %v", len(kept), kept[len(kept)-1])
	}
}

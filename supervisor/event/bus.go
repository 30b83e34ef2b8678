package event

import (
	"sync"
	"time"
)

// ringSize is how many events a late reader can still see: a kill storm of 20
// a second makes about 60 events a second, so this is the last half minute of
// the worst day and days of a quiet one.
const ringSize = 2048

// Bus hands events to the ring and to the subscribers. The zero value is ready.
// All methods may be called from any goroutine.
type Bus struct {
	mu   sync.Mutex
	next uint64          // ID of the last event
	from uint64          // ID before the first event of this bus
	ring [ringSize]Event // event n stands at n % ringSize
	subs map[*Subscription]struct{}

	held    bool
	waiting []Event // published and not yet numbered
}

// Hold lets events wait, without a number and for nobody to see, until Release.
// Of very many the oldest are forgotten.
func (b *Bus) Hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = true
}

// Release lets the events that waited follow the given one, and returns the ID of
// the last.
func (b *Bus) Release(after uint64) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held {
		b.held, b.next, b.from = false, after, after
		for _, e := range b.waiting {
			b.publish(e)
		}
		b.waiting = nil
	}
	return b.next
}

// Continue makes the next event's ID follow the given one: that of the newest
// event before a restart. It is called before the first Publish.
func (b *Bus) Continue(id uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next, b.from = id, id
}

// Publish numbers the event, stamps it unless it has a time, and delivers it.
// It never waits for a reader.
func (b *Bus) Publish(e Event) Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if b.held {
		b.waiting = append(b.waiting, e)
		if len(b.waiting) > ringSize {
			b.waiting = b.waiting[1:]
		}
		return e
	}
	return b.publish(e)
}

func (b *Bus) publish(e Event) Event {
	b.next++
	e.ID = b.next
	b.ring[e.ID%ringSize] = e
	for s := range b.subs {
		s.offer(e)
	}
	return e
}

// Since returns the events after the given ID that the ring still holds, oldest
// first; Since(0) returns all of them.
func (b *Bus) Since(id uint64) []Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since(id)
}

func (b *Bus) since(id uint64) []Event {
	id = max(id, b.from)
	if b.next > ringSize && id < b.next-ringSize {
		id = b.next - ringSize
	}
	if id >= b.next {
		return nil
	}
	events := make([]Event, 0, b.next-id)
	for n := id + 1; n <= b.next; n++ {
		events = append(events, b.ring[n%ringSize])
	}
	return events
}

// Subscribe returns the events after the given ID that the ring holds, and a
// subscription that goes on from there without gap or repetition. The caller
// owns the subscription and closes it.
func (b *Bus) Subscribe(after uint64, buffer int) ([]Event, *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &Subscription{bus: b, events: make(chan Event, buffer)}
	if b.subs == nil {
		b.subs = make(map[*Subscription]struct{})
	}
	b.subs[s] = struct{}{}
	return b.since(after), s
}

// Subscription is one reader's bounded share of the stream.
type Subscription struct {
	bus    *Bus
	events chan Event
	lost   int // guarded by bus.mu
}

// Events delivers until Close. An Event of kind Lost stands where the reader
// was too slow.
func (s *Subscription) Events() <-chan Event { return s.events }

// Close ends the subscription; the channel is closed. Closing twice is harmless.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	if _, ok := s.bus.subs[s]; ok {
		delete(s.bus.subs, s)
		close(s.events)
	}
}

// offer runs under the bus's lock. One place is kept for the Lost notice, which
// goes in first when there is room again.
func (s *Subscription) offer(e Event) {
	if s.lost > 0 {
		if cap(s.events)-len(s.events) < 2 {
			s.lost++
			return
		}
		s.events <- Event{ID: e.ID, Time: e.Time, Kind: Lost, Count: s.lost, Message: "this reader was too slow"}
		s.lost = 0
	}
	select {
	case s.events <- e:
	default:
		s.lost++
	}
}

package supervisor

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What a probe came to, and when; nil is a good answer.
type probed struct {
	accepted, ended time.Duration // ended 0: not yet
	err             error
}

func TestWorkerIsNotTakenForHungByOneBadAnswer(t *testing.T) {
	const interval = 10 * time.Second
	bad, cut := error(&StatusError{503}), errors.New("no answer: EOF")
	for name, c := range map[string]struct {
		probes []probed
		hung   bool
	}{
		"one bad answer, and no further probe":        {[]probed{{1, 2, bad}}, false},
		"one that was cut, and no further probe":      {[]probed{{1, 2, cut}}, false},
		"a bad answer, and a new probe on its way":    {[]probed{{1, 2, bad}, {19, 0, nil}}, false},
		"bad answers for less than the interval":      {[]probed{{1, 2, bad}, {9, 10, bad}}, false},
		"bad answers over the interval":               {[]probed{{1, 2, bad}, {6, 7, bad}, {11, 12, bad}}, true},
		"cut answers over the interval":               {[]probed{{1, 2, cut}, {6, 7, cut}, {11, 12, cut}}, true},
		"two bad answers, far from each other":        {[]probed{{1, 2, bad}, {11, 12, bad}}, false},
		"a good answer between the bad ones":          {[]probed{{1, 2, bad}, {5, 6, nil}, {7, 8, bad}, {11, 12, bad}}, false},
		"no answer for the interval":                  {[]probed{{9, 0, nil}}, true},
		"no answer yet":                               {[]probed{{11, 0, nil}}, false},
		"no answer to a new one since an old bad one": {[]probed{{9, 12, bad}, {11, 0, nil}}, false},
		"a good answer to one of two":                 {[]probed{{1, 0, nil}, {2, 3, nil}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			w := &child{life: life{interval: interval}}
			for at := range 20 * time.Second / time.Second { // a second each
				now := began.Add(at * time.Second)
				for _, p := range c.probes {
					if p.accepted == at {
						w.life.debt.accepted(now, "/")
					}
					if p.ended == at && at > 0 {
						w.life.debt.ended(now, interval, true, "/", p.err)
					}
				}
			}
			if why := w.silent(began.Add(19*time.Second), true); (why != "") != c.hung {
				t.Errorf("hung: %q", why)
			}
		})
	}
}

// A worker that serves one connection after the other would wait for the request
// of ours as long as we wait for a place in the queue.
func TestProbesThatFindTheQueueFullDoNotHoldThoseBefore(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(fd)
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1))
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}).String()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var r round
	r.connect(ctx, mostProbes, "tcp", address)
	if ctx.Err() != nil || len(r.waiting) == 0 || len(r.waiting) == mostProbes {
		t.Errorf("%d of %d found a place, and the rest waited for one: %v", len(r.waiting), mostProbes, ctx.Err())
	}
	for _, c := range r.waiting {
		_ = c.Close()
	}
}

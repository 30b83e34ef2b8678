package listen

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// shutDown is what poll(2) says of a listener that somebody shut down. A unix
// socket then looks readable for ever.
const shutDown = unix.POLLHUP | unix.POLLRDHUP

// Pending says whether a connection waits to be accepted.
func (s *Socket) Pending() bool {
	events := s.events()
	return events&unix.POLLIN != 0 && events&shutDown == 0
}

func (s *Socket) events() int16 {
	poll := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN | unix.POLLRDHUP}}
	for {
		_, err := unix.Poll(poll, 0)
		if err != unix.EINTR {
			return poll[0].Revents
		}
	}
}

// QueueDepth is how many connections wait to be accepted. Of a unix socket the
// kernel tells only whether there are any: 0 or 1.
func (s *Socket) QueueDepth() (int, error) {
	if s.name.network == "unix" {
		if s.Pending() {
			return 1, nil
		}
		return 0, nil
	}
	info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, fmt.Errorf("cannot read the queue of %s: %w", s.name, err)
	}
	// Of a listener, tcpi_unacked is the queue and tcpi_sacked its limit.
	return int(info.Unacked), nil
}

// StopNew refuses new connections to everyone who shares the socket and keeps
// those that wait in its queue. Closing alone would reset them. After it:
// accept until the queue is empty (WaitEmpty), then Close.
//
// On TCP the kernel drops what asks for a new connection, so a late client
// tries again after a second and is refused then, by the closed port. A unix
// socket loses its path.
//
// A borrowed socket takes connections as before: they are for whoever has it next.
func (s *Socket) StopNew() error {
	if s.borrowed {
		return nil
	}
	if s.name.network == "unix" {
		return s.Unlink()
	}
	program := dropPureSYN()
	err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return fmt.Errorf("cannot stop new connections to %s: %w", s.name, err)
	}
	return nil
}

// dropPureSYN is a classic BPF program. A listener's filter sees each packet
// from the TCP header on, whichever IP carried it. Byte 13 holds the flags: a
// SYN without ACK opens a connection; the ACK that completes one must pass.
func dropPureSYN() []unix.SockFilter {
	const (
		flagsByte    = 13
		syn, ack     = 0x02, 0x10
		drop, accept = 0, 0xffffffff
	)
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsByte},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: drop},
		{Code: unix.BPF_RET | unix.BPF_K, K: accept},
	}
}

// WaitEmpty returns once the queue has been empty for the quiet period: the
// ACK of a handshake that StopNew let pass may still be under way.
func (s *Socket) WaitEmpty(ctx context.Context, quiet time.Duration) error {
	tick := time.NewTicker(max(quiet/10, time.Millisecond))
	defer tick.Stop()
	for since := time.Now(); ; {
		if s.Pending() {
			since = time.Now()
		} else if time.Since(since) >= quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("connections still wait on %s: %w", s.name, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Package notify speaks the systemd notification protocol, both sides of it: a supervisor listens
// on a datagram socket named by NOTIFY_SOCKET, those below it send assignments (READY=1) and
// descriptors, and the kernel says who sent them. Descriptors come back at the next start as
// LISTEN_FDS. Programs written for systemd work with it unchanged.
//
// One thing is added: a question. Ask sends one end of a socket pair along with the assignments
// and waits for a packet on the other; a supervisor that does not know the question closes the
// descriptor, which the asker sees at once as ErrNoAnswer.
package notify

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Assignments of the protocol that take no value of their own.
const (
	Ready         = "READY=1"
	Stopping      = "STOPPING=1"
	Reloading     = "RELOADING=1"
	StoreFD       = "FDSTORE=1"
	RemoveFD      = "FDSTOREREMOVE=1"
	WatchdogAlive = "WATCHDOG=1"
)

// Variables of the protocol.
const (
	SocketVariable = "NOTIFY_SOCKET"
	FDsVariable    = "LISTEN_FDS"
	NamesVariable  = "LISTEN_FDNAMES"
	PIDVariable    = "LISTEN_PID"

	WatchdogVariable    = "WATCHDOG_USEC"
	WatchdogPIDVariable = "WATCHDOG_PID"
)

// Variables and values of our own.
const (
	RoleVariable       = "X_REVENANT_ROLE"
	InstanceVariable   = "X_REVENANT_INSTANCE"
	GenerationVariable = "X_REVENANT_GENERATION"
	KeeperPIDVariable  = "X_REVENANT_KEEPER_PID"
	RolledBackVariable = "X_REVENANT_ROLLED_BACK" // why the last upgrade was undone
	UnfitVariable      = "X_REVENANT_UNFIT"       // why the program should be followed by the one before
	// PredecessorVariable names the socket on which a master hears how its successor fares.
	PredecessorVariable = "X_REVENANT_PREDECESSOR"
	MoreVariable        = "X_REVENANT_MORE"  // in an answer: another one belongs to it
	AboveVariable       = "X_REVENANT_ABOVE" // somebody above the keeper wants to know how the instance is

	// GoProcsVariable holds the operator's GOMAXPROCS for a master to hand on, whose own is 1.
	GoProcsVariable = "X_REVENANT_GOMAXPROCS"
	// OrphanKey introduces a worker of a dead master to the keeper, which may not know it by its
	// environment any more: "PID GENERATION WORKER SLOT".
	OrphanKey = "X_REVENANT_ORPHAN"
	// TermsKey tells the keeper how workers leave, in case it has to ask them: "MICROSECONDS SIGNAL"
	// of the drain timeout and the stop signal.
	TermsKey = "X_REVENANT_TERMS"

	RoleCandidate = "candidate" // of a process that is about to become a master
	RoleKeeper    = "keeper"
	RoleMaster    = "master"
	RoleWorker    = "worker"
	RoleCommand   = "command" // about to become a program that is not ours

	WorkerInstanceVariable   = "REVENANT_INSTANCE"
	WorkerVariable           = "REVENANT_WORKER"
	WorkerSlotVariable       = "REVENANT_SLOT"
	WorkerGenerationVariable = "REVENANT_GENERATION"
)

// Limits of the protocol: longer messages are neither sent nor received whole, and the kernel
// passes no more descriptors at once.
const (
	maxMessage = 4096
	maxFiles   = 253
)

var (
	// ErrNoSupervisor is what a nil Client says to a question.
	ErrNoSupervisor = errors.New("no supervisor listens: NOTIFY_SOCKET is not set")
	// ErrNoAnswer says that the supervisor closed a question without an answer, as one that does not know it will.
	ErrNoAnswer = errors.New("the supervisor gave no answer")
)

// ExtendTimeout is the assignment that asks for so much time from now on.
func ExtendTimeout(d time.Duration) string {
	return fmt.Sprintf("%s=%d", extendVariable, d.Microseconds())
}

const extendVariable = "EXTEND_TIMEOUT_USEC"

// FDName is the assignment that names the descriptors sent with it.
func FDName(name string) string { return "FDNAME=" + EscapeName(name) }

// join makes one datagram of the assignments. A line break within one would forge another.
func join(state []string) ([]byte, error) {
	if len(state) == 0 {
		return nil, errors.New("cannot notify: nothing to say")
	}
	for _, s := range state {
		if strings.ContainsRune(s, '\n') || !strings.Contains(s, "=") {
			return nil, fmt.Errorf("cannot notify: %q is not one NAME=value", s)
		}
	}
	text := strings.Join(state, "\n")
	if len(text) > maxMessage {
		return nil, fmt.Errorf("cannot notify: %d bytes are more than the %d of one message", len(text), maxMessage)
	}
	return []byte(text), nil
}

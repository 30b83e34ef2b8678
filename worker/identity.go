package worker

import (
	"os"
	"strconv"
	"sync"

	"revenant/supervisor/notify"
)

// Identity says which worker this is. Alone, everything but PID is zero.
type Identity struct {
	Instance   string // uuid of the instance
	Worker     uint64 // counts up for ever within the instance
	Slot       int
	Generation int
	PID        int
	Supervised bool
}

// Self is the identity of this process, as its environment said at the first call.
func Self() Identity { return level().identity }

// above is what the level above told this process.
type above struct {
	identity Identity
	client   *notify.Client // nil: nobody to notify
	err      error          // NOTIFY_SOCKET cannot be used
	files    []notify.NamedFile
}

// level reads the environment once and takes out of it what was meant for this process alone, so that no
// child of the worker mistakes itself for it. /proc/PID/environ, by which the keeper finds workers, keeps it.
var level = sync.OnceValue(func() above {
	a := above{identity: identityFrom(os.Getenv)}
	a.files = notify.Inherited(os.Getenv)
	a.client, a.err = notify.FromEnv()
	for _, name := range []string{notify.PIDVariable, notify.FDsVariable, notify.NamesVariable, notify.SocketVariable, notify.WatchdogVariable, notify.WatchdogPIDVariable} {
		os.Unsetenv(name)
	}
	return a
})

// identityFrom believes the variables only when LISTEN_PID says that they are about this process.
func identityFrom(getenv func(string) string) Identity {
	id := Identity{PID: os.Getpid()}
	if getenv(notify.PIDVariable) != strconv.Itoa(id.PID) || getenv(notify.SocketVariable) == "" {
		return id
	}
	worker, err := strconv.ParseUint(getenv(notify.WorkerVariable), 10, 64)
	if instance := getenv(notify.WorkerInstanceVariable); err == nil && instance != "" {
		id.Instance, id.Worker, id.Supervised = instance, worker, true
		id.Slot, _ = strconv.Atoi(getenv(notify.WorkerSlotVariable))
		id.Generation, _ = strconv.Atoi(getenv(notify.WorkerGenerationVariable))
	}
	return id
}

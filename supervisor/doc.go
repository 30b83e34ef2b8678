// Package supervisor is the master: it starts one worker process per slot on
// shared listening sockets, replaces what dies, and ends the instance without
// losing a request.
//
// # Processes
//
//	revenant run               keeper    package keeper; its pid never changes
//	└─ revenant: master g1     master    this package
//	   ├─ worker 1 slot 0      worker    package worker, or any program
//	   └─ worker 2 slot 1
//
// Death goes upward as little as possible. A worker's is the master's business:
// its siblings take the queue and its slot is filled again. A master's is the
// keeper's: the workers go on serving, the next master gets the same sockets
// back, starts workers of its own, and says READY; then the keeper asks the old
// ones to drain. A keeper's ends the instance: everybody below reads end-of-file
// from the lifeline.
//
// # Rooms
//
//	slot.go, policy.go    the life of a slot: a pure table, and when to start again
//	master.go             the loop that owns all state
//	review.go             whether the generation is good, and the instance hopeless
//	child.go, cause.go    one worker as the master sees it; why it ended
//	inbox.go              what workers say and ask
//	operation.go          what somebody changes: one thing at a time
//	replace.go            a new worker for a slot before the former one leaves
//	reload.go, recycle.go what is made of that: by wish, and by wear
//	door.go               a question that exactly one worker answers
//	stop.go               the end without resets
//	orphan.go, state.go   what outlives a master: workers, and a page of numbers
//	output.go             what workers print: pipes, and the ring of lines
//	upgrade.go            an upgrade, as the master sees it that is to be succeeded
//	succession.go         the same, as its successor sees it
//	flip.go, binary.go    tableflip; what a program must be before it is started
//	above.go              what a service manager is told, through the keeper
//	status.go             what the outside may see and wish
//	program.go            what a worker is given: arguments, environment, descriptors
//	placement.go          which descriptor a listener stands on
//	leftover.go           what a worker leaves behind when it is gone
//	readiness.go          when a worker is ready, and who says so
//	guard.go              what one worker did to the sockets of all
//	liveness.go           whether a worker that lives does anything
//	liveprobe.go          asked of programs over the listener that all share
//	look.go, stall.go     seen from outside
//	obituary.go           all that there is to say of one worker
//	platform.go           the only place that makes system calls about processes
//
// # Goroutines
//
//	goroutine            started by   ends when                      waited for by
//	Run                  the caller   every worker is gone           the caller
//	one per worker       start        the worker has ended           Run, at its exit
//	two per worker       start        its pipe does, or the worker   the one above
//	relieve              leaveOutput  the process does               nobody; it holds nothing
//	watchInbox           Run          the notify server is closed    nobody; it holds nothing
//	watchSockets         Run          Run does                       nobody; it holds nothing
//	a question           probe        at the start timeout           nobody; it holds its descriptor
//	reading settings     reload       when they are read             nobody; a stop does not wait
//	feedWatchdog         Run          Run does                       nobody; it holds nothing
//	emptying the queues  stop         within a second                Run
//	flip                 an upgrade   the successor is ready or gone nobody; a stop ends it
//	awaitAlone           New          no earlier master lives        nobody; it ends with the process
//	one per start        expect       the worker is ready or gone    nobody; it holds nothing
//	a look at workers    keepWatch    they were looked at            nobody; it holds nothing
//	probes and each one  keepWatch    two intervals have passed      nobody; a stop ends them
//	one per orphan       New          the orphan, or Run, has ended  nobody; it holds its pidfd
//
// State has one owner, Run. Others send it functions (ask) or facts (exits).
//
// # Any program
//
// A program that is not this binary is started by a step (package command): this
// binary once more, which sets LISTEN_PID, gives up rights and executes the
// program in its own place. What the step cannot do it says by NOTIFY_SOCKET, so
// a failed start has its reason in the operator's words.
//
// # Decisions
//
// Where this differs from the first design, and why (2026-11-23):
//
//   - A worker of package worker asks for its scoreboard and lifeline (the HELLO
//     question on NOTIFY_SOCKET) instead of finding them at fixed descriptors.
//     So the descriptors and the environment of every worker are those of a
//     systemd service, whatever it was built with.
//   - LISTEN_PID needs the worker's own pid, which no Go parent knows before the
//     fork. A worker that is the same binary sets it before main does anything
//     else; a second exec would cost as much again as the whole start. Other
//     programs take it: some 3 ms.
//   - The listeners of any program are non-blocking, where systemd's are not: the
//     flag is that of all who share the socket, and a worker that blocks in accept
//     could not be asked to drain.
//   - That a listener was shut down the master hears from an epoll instance that
//     asks for hang-ups alone: connections do not wake it, as they would through
//     Go's poller. Nothing tells of O_NONBLOCK: that is looked for.
//   - Who shut a unix socket down the kernel does not say. All workers have to be
//     replaced, so one has to be suspected, or one program could keep all of them
//     from serving for as long as a crash loop may pause: it is the one that was
//     started last. Suspected wrongly, it is not for long: the one that does it is
//     the last to be started the next time.
//   - Programs that set their title write over their environment, by which the
//     keeper knows orphans. So a new master introduces them to it, by the boards.
//   - Notification sockets are abstract: nothing to clean up, no writable folder,
//     no limit from a long path. The sender is checked by the kernel's credentials.
//   - The keeper learns of orphans from /proc at the moment it needs them, by the
//     REVENANT_ variables in their environment, and not from messages: a master
//     can be killed between fork and send.
//   - How an orphan ended only the keeper can tell, which reaps it; the master asks
//     when it sees the end by a pidfd, or when it begins and finds the board of one
//     that is gone. It asks by pid and start time, which are never used twice, and
//     the board says by which signal a dead master had asked that worker to leave.
//     The keeper remembers the newest 256 ends; one that it does not know is unknown.
//     A stop waits for them as for workers of its own, or their ends would be told
//     to nobody; the keeper bounds that.
//   - What a worker printed last lies in a memfd at the keeper, so that it explains
//     an end whoever read it. A line counts when it is whole.
//   - The count of OOM kills that were accounted for is in the state page, so that
//     what happened while no master lived is put down to those who died of it.
//   - At an upgrade tableflip starts the successor, waits for it and kills it when
//     it is late. Descriptors do not go through it: its files would put the
//     listening sockets into the master's poller, which is woken for each
//     connection then, and could not be given back when an upgrade fails. The
//     successor asks the keeper instead, which answers with all that it stores, so
//     that a master inherits the same whoever started it, and by the same names.
//   - A master that was succeeded leaves at once. Its workers are the keeper's then,
//     as after a crash, and drain; their boards are the successor's. So the next
//     upgrade need not wait for the last connection of the one before, and there
//     are never two masters that count events, for longer than it takes to exit.
//     Until then the successor's events wait for their numbers. An upgrade is refused
//     while more workers drain than an instance should carry.
//   - Workers of a successor are READY, and answer it through their doors, before
//     they take a connection: of a program that is refused no client ever hears.
//     Workers that have no door take connections when they are ready, as they do
//     at any start; those of a successor that is given up are asked to drain, and
//     not killed.
//   - The keeper starts masters from a descriptor of the program, which each master
//     sends it. That of a successor replaces it with READY, and the one before is
//     kept: for a rollback by hand, and for one that the keeper makes when a master
//     ends by itself on probation. SIGKILL from outside says nothing against a
//     program; an exit whose status nobody can tell is held against it.
//   - A process that tableflip started executes itself once more, for its name in ps,
//     a session of its own, and an environment without what was meant for the one
//     before. It costs 10 ms.
//   - Numbers of generations are counted in the state page and used once, also by
//     successors that did not come to be: a worker's generation never means two.
//   - A master that somebody kills after it was ready is replaced at once, under
//     the same rule as a worker: at most a fifth of the time goes into starting,
//     and never more than a second passes. Only one that falls over by itself
//     meets a backoff.
//   - In a stop, the listening sockets are closed everywhere as soon as the queue
//     is empty, and not at the end of the drain: with only the filter in place a
//     late client would wait for its next SYN instead of being refused.
//   - Worker numbers, totals and "has ever been ready" live in a memfd that the
//     keeper holds. It has no format beyond fixed numbers, so there is no moment
//     at which it is half written.
//   - A worker that obeys a SIGTERM from elsewhere (exit 0 after STOPPING=1) has
//     ended as planned: somebody wanted it so, and it did what it should.
//   - A permit for chaos takes a worker out of the count of those that serve at
//     once, not when it is dead: two requests at the same time cannot both be
//     the one that leaves nobody.
//   - A slot that is replaced on purpose knows two workers, and only then. The
//     successor has to answer a request before the former worker goes: READY
//     alone says that a program has started, not that it works. What it is asked
//     comes over a connection of its own (the door), for on a shared socket
//     nobody knows who accepts, and it would count as a client's.
//   - A successor that was ready and answered badly is asked to drain, not killed:
//     it has taken connections from the queue of all.
//   - When a reload fails half-way, the workers that were replaced stay: they have
//     answered, and a second replacing of each is a second risk. The settings for
//     whoever is started next are the former ones, and it says so.
//   - Recycling is an operation like others, but gives way to what people want:
//     nobody is refused because a worker was too old.
//   - Only a start, a reload and an upgrade read the configuration file. A master
//     that takes over after a crash goes on with the text that was in force, which
//     the keeper holds: a crash changes nothing, and a half-finished edit is no
//     reason to die. A program that is rolled back gets the text before its upgrade.
//   - A liveness probe goes over the listener that all share, and is judged by who
//     accepted it, which the kernel tells (sock_diag). A private listener for each
//     worker would be one more descriptor that no service of systemd has, and few
//     programs could serve it.
//   - Without a probe a program is taken for hung by proof alone: that it holds a
//     client's request, moves no byte, takes nothing, and either never sleeps or
//     has no thread that anybody else could wake. A worker that sleeps in a call to
//     somebody else looks the same whether that will ever return or not.
package supervisor

package sockdiag

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patient bounds every wait.
const patient = 30 * time.Second

func await(t *testing.T, what string, good func() bool) {
	t.Helper()
	for limit := time.Now().Add(patient); !good(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("never: %s", what)
		}
	}
}

// must is what is there, or the end of the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// inodeOf is the inode of a socket of ours.
func inodeOf(t *testing.T, c syscall.Conn) uint64 {
	t.Helper()
	var stat syscall.Stat_t
	raw := must[syscall.RawConn](t)(c.SyscallConn())
	if err := raw.Control(func(fd uintptr) { _ = syscall.Fstat(int(fd), &stat) }); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func TestTCPConnectionWaitsUntilItIsAcceptedAndOwesUntilItIsAnswered(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		t.Run(address, func(t *testing.T) {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Skipf("SKIPPED, NOT TESTED: connections on %s: %v", address, err)
			}
			defer l.Close()
			port := l.Addr().(*net.TCPAddr).Port
			target := l.Addr().String()
			if address == "[::]:0" { // a client of IPv4 on a socket of IPv6
				target = (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}).String()
			}
			client := must[net.Conn](t)(net.Dial("tcp", target))
			defer client.Close()
			only := func() Connection {
				found := must[[]Connection](t)(Connections(port))
				if len(found) != 1 {
					return Connection{}
				}
				return found[0]
			}
			accepted := func() uint64 {
				server, here := netip.MustParseAddrPort(client.RemoteAddr().String()), netip.MustParseAddrPort(client.LocalAddr().String())
				return must[uint64](t)(Accepted(server, here))
			}
			await(t, "it is listed", func() bool { return only().Local.Port() == uint16(port) })
			if c := only(); c.Inode != 0 || c.Owes() || accepted() != 0 {
				t.Errorf("nobody accepted it, or asked: %+v, %d", c, accepted())
			}
			server := must[net.Conn](t)(l.Accept())
			defer server.Close()
			inode := inodeOf(t, server.(*net.TCPConn))
			if only().Inode != inode || accepted() != inode {
				t.Errorf("it is %d, found as %d and %d", inode, only().Inode, accepted())
			}
			time.Sleep(10 * time.Millisecond) // ages are in milliseconds
			_, _ = client.Write([]byte("12345"))
			await(t, "it owes an answer", func() bool { c := only(); return c.Owes() && c.Unread == 5 && c.Received == 5 })
			_, _ = server.Read(make([]byte, 9))
			if c := only(); c.Unread != 0 || !c.Owes() {
				t.Errorf("it was read, and not answered: %+v", c)
			}
			time.Sleep(10 * time.Millisecond)
			_, _ = server.Write([]byte("123"))
			await(t, "it owes none", func() bool { c := only(); return !c.Owes() && c.Sent == 3 })
		})
	}
}

// The twin: what is over, and another port's, is not listed.
func TestTCPConnectionOfAnotherPortAndOneThatIsOverAreNotListed(t *testing.T) {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	other := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer other.Close()
	port := l.Addr().(*net.TCPAddr).Port
	client := must[net.Conn](t)(net.Dial("tcp", l.Addr().String()))
	server := must[net.Conn](t)(l.Accept())
	if found := must[[]Connection](t)(Connections(other.Addr().(*net.TCPAddr).Port)); len(found) != 0 {
		t.Errorf("connections of another port: %v", found)
	}
	here := netip.MustParseAddrPort(client.LocalAddr().String())
	_ = server.Close()
	_ = client.Close()
	await(t, "it is gone", func() bool { return len(must[[]Connection](t)(Connections(port))) == 0 })
	if inode := must[uint64](t)(Accepted(netip.MustParseAddrPort(l.Addr().String()), here)); inode != 0 {
		t.Errorf("a connection that is over has inode %d", inode)
	}
}

func TestUnixConnectionWaitsUntilItIsAcceptedAndIsFoundByItsPeer(t *testing.T) {
	l := must[net.Listener](t)(net.Listen("unix", filepath.Join(t.TempDir(), "s")))
	defer l.Close()
	listener := inodeOf(t, l.(*net.UnixListener))
	client := must[net.Conn](t)(net.Dial("unix", l.Addr().String()))
	defer client.Close()
	own := inodeOf(t, client.(*net.UnixConn))
	if s := must[UnixSocket](t)(Unix(listener)); !slices.Equal(s.Waiting, []uint64{own}) || s.Unread != 0 {
		t.Errorf("%d waits, listed are %+v", own, s)
	}
	if s := must[UnixSocket](t)(Unix(own)); s.Peer != 0 {
		t.Errorf("nobody accepted it, and its peer is %d", s.Peer)
	}
	server := must[net.Conn](t)(l.Accept())
	defer server.Close()
	theirs := inodeOf(t, server.(*net.UnixConn))
	if s := must[UnixSocket](t)(Unix(own)); s.Peer != theirs {
		t.Errorf("its peer is %d, not %d", s.Peer, theirs)
	}
	if s := must[UnixSocket](t)(Unix(listener)); len(s.Waiting) != 0 {
		t.Errorf("it was accepted, and waits: %v", s.Waiting)
	}
	_, _ = client.Write([]byte("12345"))
	if s := must[UnixSocket](t)(Unix(theirs)); s.Unread != 5 || s.Path != l.Addr().String() {
		t.Errorf("5 bytes came to %s: %+v", l.Addr(), s)
	}
}

// The twin.
func TestUnixSocketThatIsGoneSaysNothing(t *testing.T) {
	l := must[net.Listener](t)(net.Listen("unix", filepath.Join(t.TempDir(), "s")))
	inode := inodeOf(t, l.(*net.UnixListener))
	_ = l.Close()
	if s, err := Unix(inode); err != nil || s.Peer != 0 || s.Waiting != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// A kernel that cannot list sockets, and another network namespace, show none, too.
func TestListenerThatIsNotSeenIsAnErrorAndNotAnEmptyQueue(t *testing.T) {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	port := l.Addr().(*net.TCPAddr).Port
	if _, err := Connections(port); err != nil {
		t.Errorf("it listens: %v", err)
	}
	_ = l.Close()
	if found, err := Connections(port); !errors.Is(err, ErrUnseen) {
		t.Errorf("nobody listens: %v, %v", found, err)
	}
	u := must[net.Listener](t)(net.Listen("unix", filepath.Join(t.TempDir(), "s")))
	inode := inodeOf(t, u.(*net.UnixListener))
	if _, err := UnixListener(inode); err != nil {
		t.Errorf("it listens: %v", err)
	}
	_ = u.Close()
	if s, err := UnixListener(inode); !errors.Is(err, ErrUnseen) {
		t.Errorf("nobody listens: %+v, %v", s, err)
	}
}

// What the kernel says at the end of a list that it could not make.
func TestListThatEndedInAnErrorIsNotAnEmptyOne(t *testing.T) {
	done := func(number int32) []byte {
		d := binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN+4)
		d = binary.NativeEndian.AppendUint16(d, unix.NLMSG_DONE)
		d = append(d, make([]byte, 10)...)
		return binary.NativeEndian.AppendUint32(d, uint32(number))
	}
	for number, want := range map[int32]error{0: nil, -int32(unix.ENOENT): errNone, -int32(unix.EPERM): unix.EPERM} {
		if ended, err := each(done(number), nil); !ended || !errors.Is(err, want) {
			t.Errorf("%d: %t, %v", number, ended, err)
		}
	}
}

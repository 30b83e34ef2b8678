package sockdiag

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Connection is our end of a TCP connection whose client has not gone.
type Connection struct {
	Local, Remote netip.AddrPort
	Inode         uint64 // 0: nobody has accepted it
	Traffic
	// Heard and Said are how long ago data came and went.
	Heard, Said time.Duration
}

// Traffic is what went over a connection until now.
type Traffic struct {
	Unread         int    // bytes that came and were not read
	Received, Sent uint64 // bytes; of unix sockets the kernel does not count them
}

// Owes tells whether the client asked for something and has no answer yet: what
// came last came from the client, by the kernel's clock of milliseconds; of two
// things in one it does not tell which was last.
func (c Connection) Owes() bool { return c.Received > 0 && (c.Sent == 0 || c.Heard < c.Said) }

// States of TCP whose client waits for an answer, or may; stateListen is a
// listener's.
const (
	stateEstablished = 1
	stateCloseWait   = 8
)

// socketID is struct inet_diag_sockid. Ports and addresses are in network order.
type socketID struct {
	SourcePort, TargetPort [2]byte
	Source, Target         [16]byte
	Interface              uint32
	Cookie                 [2]uint32
}

// anyCookie matches every socket.
var anyCookie = [2]uint32{^uint32(0), ^uint32(0)}

// inetRequest is struct inet_diag_req_v2.
type inetRequest struct {
	Family, Protocol, Extensions, _ uint8
	States                          uint32
	ID                              socketID
}

// inetAnswer is struct inet_diag_msg.
type inetAnswer struct {
	Family, State, Timer, Retransmits   uint8
	ID                                  socketID
	Expires, Unread, Unsent, UID, Inode uint32
}

// attributeInfo holds a struct tcp_info.
const attributeInfo = 2

// Connections lists the TCP connections to a port of this machine that are open,
// those among them that wait to be accepted. When no listener is seen on it the
// error is ErrUnseen.
func Connections(port int) (found []Connection, err error) {
	listens := false
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		r := inetRequest{Family: family, Protocol: unix.IPPROTO_TCP, Extensions: 1 << (attributeInfo - 1),
			States: 1<<stateEstablished | 1<<stateCloseWait | 1<<stateListen}
		binary.BigEndian.PutUint16(r.ID.SourcePort[:], uint16(port))
		r.ID.Cookie = anyCookie
		err := ask(r, true, func(answer []byte) {
			if c, state := connection(answer); state == stateListen {
				listens = true
			} else {
				found = append(found, c)
			}
		})
		if err != nil && !errors.Is(err, errNone) { // a machine without IPv6 has none
			return nil, err
		}
	}
	if !listens {
		return nil, ErrUnseen
	}
	return found, nil
}

// Accepted finds the server's end of a connection, and is 0 while nobody has
// accepted it and when there is none any more.
func Accepted(server, client netip.AddrPort) (inode uint64, err error) {
	family := uint8(unix.AF_INET)
	if server.Addr().Is6() && !server.Addr().Is4In6() {
		family = unix.AF_INET6
	}
	r := inetRequest{Family: family, Protocol: unix.IPPROTO_TCP}
	r.ID.Cookie = anyCookie
	r.ID.SourcePort, r.ID.Source = inKernel(server)
	r.ID.TargetPort, r.ID.Target = inKernel(client)
	err = ask(r, false, func(answer []byte) {
		if c, _ := connection(answer); c.Remote.Port() == client.Port() { // not the listener
			inode = c.Inode
		}
	})
	if errors.Is(err, errNone) {
		return 0, nil
	}
	return inode, err
}

func inKernel(a netip.AddrPort) (port [2]byte, address [16]byte) {
	binary.BigEndian.PutUint16(port[:], a.Port())
	copy(address[:], a.Addr().Unmap().AsSlice())
	return port, address
}

func connection(answer []byte) (c Connection, state uint8) {
	var m inetAnswer
	rest := fixed(answer, &m)
	c.Inode, c.Unread = uint64(m.Inode), int(m.Unread)
	c.Local, c.Remote = fromKernel(m.Family, m.ID.SourcePort, m.ID.Source), fromKernel(m.Family, m.ID.TargetPort, m.ID.Target)
	attributes(rest, func(kind uint16, value []byte) {
		if kind != attributeInfo {
			return
		}
		var info unix.TCPInfo
		fixed(value, &info)
		c.Received, c.Sent = info.Bytes_received, info.Bytes_sent
		c.Heard, c.Said = time.Duration(info.Last_data_recv)*time.Millisecond, time.Duration(info.Last_data_sent)*time.Millisecond
	})
	return c, m.State
}

func fromKernel(family uint8, port [2]byte, address [16]byte) netip.AddrPort {
	a := netip.AddrFrom16(address)
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(address[:4]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port[:]))
}

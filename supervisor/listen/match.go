package listen

import "slices"

// Meets tells whether a socket that is bound there listens where this address
// asks to: the same path, or the same port and host. Every interface is the same
// whether the kernel spells it for IPv4 or IPv6.
func (a Address) Meets(bound Address) bool {
	if a.network != bound.network {
		return false
	}
	if a.network == "unix" {
		return a.path == bound.path
	}
	every := []string{"", "::", "0.0.0.0"}
	same := a.host == bound.host || slices.Contains(every, a.host) && slices.Contains(every, bound.host)
	return same && a.port == bound.port && a.port != 0
}

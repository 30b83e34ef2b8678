package listen

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
)

// maxUnixPath is what sockaddr_un holds, its closing zero not counted.
const maxUnixPath = 107

// Address is where an instance listens, as the operator wrote it: the name a
// socket keeps for the life of the instance. The zero Address is not valid.
type Address struct {
	network string // "tcp" or "unix"

	host string // tcp: "" means every interface
	port int    // tcp: 0 means one that is free

	path string      // unix
	mode fs.FileMode // unix: 0 leaves it to the umask
}

// Parse reads tcp://HOST:PORT, unix:/PATH or unix:/PATH?mode=0660. HOST:PORT
// and /PATH alone are understood too. Errors begin with the value, so that the
// caller puts only the name of the flag before them.
func Parse(value string) (Address, error) {
	address, err := parse(value)
	if err != nil {
		return Address{}, fmt.Errorf("%q: cannot listen there: %w", value, err)
	}
	return address, nil
}

func parse(value string) (Address, error) {
	switch {
	case value == "":
		return Address{}, fmt.Errorf("the address is empty (write tcp://127.0.0.1:3000 or unix:/run/app.sock)")
	case strings.HasPrefix(value, "tcp://"):
		return parseTCP(strings.TrimPrefix(value, "tcp://"))
	case strings.HasPrefix(value, "unix:"):
		return parseUnix(strings.TrimPrefix(value, "unix:"))
	case strings.HasPrefix(value, "/"):
		return parseUnix(value)
	case strings.Contains(value, "://"):
		scheme, rest, _ := strings.Cut(value, "://")
		return Address{}, fmt.Errorf("%q is not a kind of socket (write tcp://%s or unix:/PATH)", scheme, strings.TrimRight(rest, "/"))
	case isNumber(value):
		return Address{}, fmt.Errorf("a port alone does not say who may reach it (write tcp://127.0.0.1:%s for this machine only or tcp://:%s for every interface)", value, value)
	default:
		return parseTCP(value)
	}
}

func parseTCP(hostPort string) (Address, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return Address{}, fmt.Errorf("no port after the host (write tcp://HOST:PORT, an IPv6 host in [brackets])")
	}
	number, err := strconv.Atoi(port)
	if err != nil || !isNumber(port) || number > 65535 {
		return Address{}, fmt.Errorf("%q is not a port (write a number from 1 to 65535, or 0 for one that is free)", port)
	}
	if strings.ContainsAny(host, "/?#@ ") {
		return Address{}, fmt.Errorf("%q is not a host (write an IP address, a host name, or nothing for every interface)", host)
	}
	// A name whose last label is a number is a mistyped IPv4 address.
	if strings.Contains(host, ":") || isNumber(host[strings.LastIndexByte(host, '.')+1:]) {
		ip, err := netip.ParseAddr(host)
		if err != nil {
			return Address{}, fmt.Errorf("%q is not an IP address (write one such as 127.0.0.1 or [::1])", host)
		}
		host = ip.String()
	}
	return Address{network: "tcp", host: host, port: number}, nil
}

func parseUnix(rest string) (Address, error) {
	path, query, _ := strings.Cut(rest, "?")
	// unix:///run/x is how a URL would say it.
	if strings.HasPrefix(path, "///") {
		path = path[2:]
	}
	switch {
	case strings.HasPrefix(path, "//"), !strings.HasPrefix(path, "/"):
		return Address{}, fmt.Errorf("the path %q is not absolute (write unix:/PATH)", path)
	case strings.ContainsRune(path, 0):
		return Address{}, fmt.Errorf("the path holds a zero byte")
	case strings.HasSuffix(path, "/"):
		return Address{}, fmt.Errorf("the path %q is a directory (write unix:%sapp.sock)", path, path)
	}
	address := Address{network: "unix", path: filepath.Clean(path)}
	if len(address.path) > maxUnixPath {
		return Address{}, fmt.Errorf("the path has %d bytes and the kernel allows %d (choose a shorter one)", len(address.path), maxUnixPath)
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not a list of options (write ?mode=0660)", query)
	}
	for key, values := range options {
		if key != "mode" || len(values) != 1 {
			return Address{}, fmt.Errorf("%q is not an option of a unix socket (the only one is mode, once)", key)
		}
		mode, err := strconv.ParseUint(values[0], 8, 32)
		if err != nil || mode == 0 || mode > 0o777 {
			return Address{}, fmt.Errorf("%q is not a file mode (write an octal one such as 0660)", values[0])
		}
		address.mode = fs.FileMode(mode)
	}
	return address, nil
}

// Network is "tcp" or "unix", for package net.
func (a Address) Network() string { return a.network }

// Port is the TCP port, 0 for a unix socket.
func (a Address) Port() int { return a.port }

// Path is where the unix socket is in the file system, "" for TCP.
func (a Address) Path() string { return a.path }

// Dial is the address as package net wants it beside Network. A socket on
// every interface is dialled by loopback.
func (a Address) Dial() string {
	switch {
	case a.network == "unix":
		return a.path
	case a.host == "", a.host == "0.0.0.0":
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(a.port))
	case a.host == "::":
		return net.JoinHostPort("::1", strconv.Itoa(a.port))
	default:
		return net.JoinHostPort(a.host, strconv.Itoa(a.port))
	}
}

// String is the one spelling of the address: two that are equal mean the same
// socket, and Parse reads it back.
func (a Address) String() string {
	switch a.network {
	case "unix":
		if a.mode != 0 {
			return fmt.Sprintf("unix:%s?mode=%04o", a.path, a.mode)
		}
		return "unix:" + a.path
	case "tcp":
		return "tcp://" + net.JoinHostPort(a.host, strconv.Itoa(a.port))
	default:
		return ""
	}
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

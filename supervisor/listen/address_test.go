package listen

import (
	"strings"
	"testing"
)

func TestParseGivesOneSpellingPerAddress(t *testing.T) {
	for _, test := range []struct{ value, want string }{
		{"tcp://127.0.0.1:3000", "tcp://127.0.0.1:3000"},
		{"tcp://:3000", "tcp://:3000"},
		{"tcp://[::1]:0", "tcp://[::1]:0"},
		{"tcp://[0:0:0:0:0:0:0:1]:80", "tcp://[::1]:80"},
		{"tcp://[fe80::1%lo]:80", "tcp://[fe80::1%lo]:80"},
		{"tcp://127.0.0.1:03000", "tcp://127.0.0.1:3000"},
		{"tcp://localhost:3000", "tcp://localhost:3000"},
		{"tcp://host1:3000", "tcp://host1:3000"},
		{"127.0.0.1:3000", "tcp://127.0.0.1:3000"},
		{":3000", "tcp://:3000"},
		{"unix:/run/app.sock", "unix:/run/app.sock"},
		{"unix:///run/app.sock", "unix:/run/app.sock"},
		{"unix:/run/./x/../app.sock", "unix:/run/app.sock"},
		{"unix:/run/app.sock?mode=0660", "unix:/run/app.sock?mode=0660"},
		{"unix:/run/app.sock?mode=600", "unix:/run/app.sock?mode=0600"},
		{"/run/app.sock", "unix:/run/app.sock"},
	} {
		address, err := Parse(test.value)
		if err != nil || address.String() != test.want {
			t.Errorf("Parse(%q) = %v, %v, want %s", test.value, address, err, test.want)
			continue
		}
		if again, err := Parse(address.String()); err != nil || again != address {
			t.Errorf("Parse(%q) = %v, %v, want what was printed", address.String(), again, err)
		}
	}
}

func TestParseErrorsNameValueCauseAndRemedy(t *testing.T) {
	for _, test := range []struct{ value, want string }{
		{"", `"": cannot listen there: the address is empty (write tcp://127.0.0.1:3000 or unix:/run/app.sock)`},
		{"3000", `write tcp://127.0.0.1:3000 for this machine only or tcp://:3000 for every interface`},
		{"http://127.0.0.1:3000/", `"http" is not a kind of socket (write tcp://127.0.0.1:3000 or unix:/PATH)`},
		{"tcp://127.0.0.1", `no port after the host`},
		{"tcp://::1:80", `no port after the host (write tcp://HOST:PORT, an IPv6 host in [brackets])`},
		{"tcp://127.0.0.1:65536", `"65536" is not a port`},
		{"tcp://127.0.0.1:-1", `"-1" is not a port`},
		{"tcp://127.0.0.1:http", `"http" is not a port`},
		{"tcp://127.0.0.1:", `"" is not a port`},
		{"tcp://127.0.0.1:3000/x", `"3000/x" is not a port`},
		{"tcp://127.0.0.256:80", `"127.0.0.256" is not an IP address`},
		{"tcp://127.1:80", `"127.1" is not an IP address`},
		{"tcp://a b:80", `"a b" is not a host`},
		{"unix:", `the path "" is not absolute`},
		{"unix:app.sock", `the path "app.sock" is not absolute`},
		{"unix://app.sock", `the path "//app.sock" is not absolute`},
		{"unix:@app", `the path "@app" is not absolute`},
		{"unix:/run/", `the path "/run/" is a directory (write unix:/run/app.sock)`},
		{"unix:/a?mode=999", `"999" is not a file mode (write an octal one such as 0660)`},
		{"unix:/a?mode=", `"" is not a file mode`},
		{"unix:/a?owner=www", `"owner" is not an option of a unix socket`},
		{"unix:/a?mode=0600&mode=0660", `the only one is mode, once`},
		{"unix:/" + strings.Repeat("x", 107), `the path has 108 bytes and the kernel allows 107`},
	} {
		_, err := Parse(test.value)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.value) {
			t.Errorf("Parse(%q) = %v, want the value and %q", test.value, err, test.want)
		}
	}
}

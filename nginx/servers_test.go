package nginx

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func parsed(t *testing.T, text string) Servers {
	t.Helper()
	s, err := ParseServers([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMarksThatAreTakenOffLeaveTheFileAsItWas(t *testing.T) {
	for _, name := range []string{"site/servers.conf", "site/standby.conf"} {
		text := string(must(files.ReadFile(name)))
		s := parsed(t, text)
		if got := string(s.Text()); got != text {
			t.Errorf("%s: read and written it is another file:\n%s", name, got)
		}
		for _, address := range s.Addresses() {
			if got := string(s.With(address, "down").Without(address, "down").Text()); got != text {
				t.Errorf("%s: %s down and up again is another file:\n%s", name, address, got)
			}
		}
	}
	standby := parsed(t, string(must(files.ReadFile("site/standby.conf"))))
	active := standby.Without("127.0.0.1:3002", "backup")
	if !standby.Has("", "backup") || active.Has("", "backup") || string(active.With("127.0.0.1:3002", "backup").Text()) != string(standby.Text()) {
		t.Errorf("a standby that was active is not what it was:\n%s", active.Text())
	}
}

func TestOnlyTheServerThatIsMeantIsMarked(t *testing.T) {
	s := parsed(t, "# server a:1;\n  server a:1 weight=2;# why\nserver b:1;\nserver a:1 down; \nserver unix:/run/a.sock max_fails=0;\n")
	if got := s.Addresses(); !slices.Equal(got, []string{"a:1", "b:1", "unix:/run/a.sock"}) {
		t.Errorf("addresses %v", got)
	}
	want := "# server a:1;\n  server a:1 weight=2 down;# why\nserver b:1;\nserver a:1 down; \nserver unix:/run/a.sock max_fails=0;\n"
	if got := string(s.With("a:1", "down").Text()); got != want {
		t.Errorf("a:1 down:\n%s\nwant\n%s", got, want)
	}
	if !s.Has("a:1", "down") || s.Has("b:1", "down") || s.Has("a:1", "backup") {
		t.Error("parameters are seen where they are not")
	}
	if _, err := ParseServers([]byte("# nobody\n")); err == nil {
		t.Error("a file without a server was accepted")
	}
}

// What a release renders keeps the rules, whichever instance is out.
func TestMarkedServersKeepTheRules(t *testing.T) {
	servers := parsed(t, string(must(files.ReadFile("site/servers.conf"))))
	standby := parsed(t, string(must(files.ReadFile("site/standby.conf"))))
	for _, address := range servers.Addresses() {
		all := with(t, "site/servers.conf", "site/servers.conf").(fstest.MapFS)
		all["site/servers.conf"] = &fstest.MapFile{Data: servers.With(address, "down").Text()}
		all["site/standby.conf"] = &fstest.MapFile{Data: standby.Without(standby.Addresses()[0], "backup").Text()}
		if found := rules(t, all, "production.conf"); found != nil {
			t.Errorf("with %s down: breaks %s", address, strings.Join(found, ", "))
		}
	}
}

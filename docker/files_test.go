package docker

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"revenant/nginx"
)

// What can be known without an engine.

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// instructions are those of a Dockerfile, with continued lines joined.
func instructions(t *testing.T, name string) []string {
	t.Helper()
	var list []string
	text := strings.ReplaceAll(read(t, name), "\\\n", " ")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list
}

func TestDockerfilesNeedNoShellAndNoFrontend(t *testing.T) {
	for _, name := range []string{"Dockerfile", "nginx.Dockerfile"} {
		if regexp.MustCompile(`(?m)^#\s*(syntax|escape|check)\s*=`).MatchString(read(t, name)) {
			t.Errorf("%s asks for a frontend, which is always pulled", name)
		}
		for _, line := range instructions(t, name) {
			word, rest, _ := strings.Cut(line, " ")
			_, command, health := strings.Cut(rest, "CMD ")
			switch {
			case word == "RUN", word == "ENTRYPOINT", word == "CMD":
				if !strings.HasPrefix(rest, "[") {
					t.Errorf("%s: %q needs a shell", name, line)
				}
			case word == "HEALTHCHECK" && (!health || !strings.HasPrefix(command, "[")):
				t.Errorf("%s: %q needs a shell", name, line)
			case word == "FROM" && !strings.HasPrefix(rest, "${"):
				t.Errorf("%s: %q cannot be replaced by an argument", name, line)
			}
		}
	}
}

// A base image is named where it is an argument, and the compose file has the same ones.
func TestBaseImagesAreArguments(t *testing.T) {
	compose := read(t, "compose.yaml")
	for _, name := range []string{"Dockerfile", "nginx.Dockerfile"} {
		for _, line := range instructions(t, name) {
			if arg, image, ok := strings.Cut(strings.TrimPrefix(line, "ARG "), "="); strings.HasPrefix(line, "ARG ") && ok && image != "" {
				if want := arg + ": ${" + arg + ":-" + image + "}"; !strings.Contains(compose, want) {
					t.Errorf("compose.yaml has no %q", want)
				}
			}
		}
	}
}

// docker stop sends KILL after ten seconds, unless told otherwise.
func TestDrainingEndsBeforeDockerStopKills(t *testing.T) {
	match := regexp.MustCompile(`REVENANT_DRAIN_TIMEOUT=(\S+)`).FindStringSubmatch(read(t, "Dockerfile"))
	if match == nil {
		t.Fatal("the Dockerfile sets no drain timeout")
	}
	if drain := nginx.Duration(match[1]); drain == 0 || drain > 9*time.Second {
		t.Errorf("drain timeout %v, want a second less than 10 s", match[1])
	}
	service := regexp.MustCompile(`(?s)x-instance:.*?\n\n`).FindString(read(t, "compose.yaml"))
	if strings.Contains(service, "stop_grace_period") {
		t.Error("the instances in compose.yaml have another grace than the image expects")
	}
}

func TestAddressesOfTheComposeFileAreThoseOfTheSite(t *testing.T) {
	address := regexp.MustCompile(`10\.\d+\.\d+\.\d+`)
	_, services, _ := strings.Cut(read(t, "compose.yaml"), "\nservices:")
	compose := map[string]string{}
	for _, match := range regexp.MustCompile(`(?s)\n  (\w+):\n.*?ipv4_address: "\$\{NETWORK:-([\d.]+)\}(\.\d+)"`).FindAllStringSubmatch(services, -1) {
		compose[match[1]] = match[2] + match[3]
	}
	want := map[string][]string{
		"servers.conf":    {compose["one"], compose["two"]},
		"standby.conf":    {compose["standby"]},
		"names.conf":      {compose["nginx"]},
		"kill-allow.conf": {strings.TrimSuffix(compose["nginx"], "10") + "1"},
	}
	for name, addresses := range want {
		found := address.FindAllString(read(t, filepath.Join("site", name)), -1)
		slices.Sort(found)
		if found = slices.Compact(found); !slices.Equal(found, addresses) {
			t.Errorf("site/%s names %v, the compose file %v", name, found, addresses)
		}
	}
}

// site is the front's configuration as the container has it.
func site(t *testing.T) fstest.MapFS {
	t.Helper()
	all := fstest.MapFS{}
	for _, from := range []struct {
		fsys   fs.FS
		prefix string
	}{{nginx.Files(), ""}, {os.DirFS("site"), "site/"}} {
		err := fs.WalkDir(from.fsys, ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := fs.ReadFile(from.fsys, name)
			all[from.prefix+name] = &fstest.MapFile{Data: text}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestSiteReplacesEveryFile(t *testing.T) {
	names, err := fs.Glob(nginx.Files(), "site/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("the folder is mounted over the one with %s: %v", name, err)
		}
	}
}

func TestSiteIsCleanAndLoads(t *testing.T) {
	conf, err := nginx.Parse(site(t), "production.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range nginx.Lint(conf) {
		t.Error(f)
	}
	if _, err := exec.LookPath("nginx"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: nginx is not installed (Debian: nginx-light)")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, site(t)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nginx", "-t", "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "production.conf")).CombinedOutput()
	if err != nil {
		t.Errorf("nginx -t: %v\n%s", err, out)
	}
}

// The build context has what the images are made of and nothing that changes without them.
func TestContextHasNoSecretsAndNoHistory(t *testing.T) {
	ignore := read(t, "../.dockerignore")
	if !strings.Contains(ignore, "\n*\n") {
		t.Error(".dockerignore does not begin with nothing")
	}
	for line := range strings.Lines(ignore) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			if _, err := os.Stat(filepath.Join("..", name)); err != nil {
				t.Errorf(".dockerignore: %v", err)
			}
		}
	}
}

// Package nginx holds the nginx configurations of the project, as files to use and as an embedded copy.
//
// production.conf is the default, tutorial.conf the one to compare it with. Both run from where they
// are with any writable prefix:
//
//	nginx -p DIR -c /path/to/nginx/production.conf
//
// Layout writes a copy with other ports, for a second front on the same machine. Lint checks what
// nginx -t does not: rules without which a request is lost when a worker dies.
package nginx

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

//go:embed *.conf site/*.conf
var files embed.FS

// Files is the shipped configuration.
func Files() fs.FS { return files }

// The ports in the shipped files.
const (
	FrontPort    = 3333
	StatusPort   = 3334
	InstancePort = 3000 // the first instance; the second and the standby follow
)

// Ports replaces the shipped ports. A zero keeps the shipped one.
type Ports struct {
	Front     int
	Status    int
	Instances [3]int // first, second, standby
}

// port finds a port where the files name one: after `listen`, or after an address of this machine.
var port = regexp.MustCompile(`(\blisten +|127\.0\.0\.1:)(3[0-9]{3})\b`)

// Layout writes the shipped files to dir, which must exist, with the given ports.
func Layout(dir string, ports Ports) error {
	replaced := map[int]int{FrontPort: ports.Front, StatusPort: ports.Status}
	for i, p := range ports.Instances {
		replaced[InstancePort+i] = p
	}
	if err := os.MkdirAll(filepath.Join(dir, "site"), 0o755); err != nil {
		return fmt.Errorf("cannot lay out the nginx configuration: %w", err)
	}
	return fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		text = port.ReplaceAllFunc(text, func(match []byte) []byte {
			part := port.FindSubmatch(match)
			shipped, _ := strconv.Atoi(string(part[2]))
			if p := replaced[shipped]; p != 0 {
				return strconv.AppendInt(part[1], int64(p), 10)
			}
			return match
		})
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("cannot lay out the nginx configuration: %w", err)
		}
		return nil
	})
}

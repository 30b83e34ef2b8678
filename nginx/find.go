package nginx

import (
	"path/filepath"
	"slices"
	"strings"
)

// What a script needs to know of a configuration that runs with a prefix. Each is "" where the
// configuration does not have it.

// PIDFile is the file of the pid directive.
func PIDFile(conf []Directive, prefix string) string {
	return below(prefix, First(conf, "pid"))
}

// ClosingFile is the one that makes every answer the last on its connection (site/closing.conf).
func ClosingFile(conf []Directive, prefix string) string {
	for _, server := range servers(conf) {
		for _, d := range All(server.Block, "set") {
			if len(d.Args) == 2 && d.Args[0] == "$closing" {
				root := below(prefix, First(server.Block, "root"))
				return below(prefix, filepath.Clean(strings.ReplaceAll(d.Args[1], "$document_root", root)))
			}
		}
	}
	return ""
}

// StatusURL is that of stub_status.
func StatusURL(conf []Directive) string {
	for _, server := range servers(conf) {
		for _, location := range All(server.Block, "location") {
			address := First(server.Block, "listen")
			if len(All(location.Block, "stub_status")) == 0 || address == "" {
				continue
			}
			if !strings.Contains(address, ":") {
				address = "127.0.0.1:" + address
			}
			return "http://" + address + location.Args[len(location.Args)-1]
		}
	}
	return ""
}

func servers(conf []Directive) []Directive {
	var all []Directive
	for _, http := range All(conf, "http") {
		all = slices.Concat(all, All(http.Block, "server"))
	}
	return all
}

// below is a path that may be relative to a folder.
func below(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

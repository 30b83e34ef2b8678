package docker

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// The shipped files are built on stand-ins for the public base images, made from what this machine has:
// so the tests need no registry and no network.

// goStandIn is Go and the modules of this project in an otherwise empty image, without a shell. It
// comes with what the compiler made here of the same sources, so that several builds take no longer
// than one.
func goStandIn(t testing.TB) string {
	if images[prefix+"-go"] {
		return prefix + "-go"
	}
	goroot, modules, cache := output(t, "go", "env", "GOROOT"), downloaded(t), compiled(t)
	return importImage(t, "go", []string{
		"ENV PATH=/usr/local/go/bin GOPATH=/go GOCACHE=/cache GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-buildvcs=false",
	}, func(w *archive) {
		for _, dir := range []string{"bin", "src", "pkg/tool", "pkg/include"} {
			w.tree(filepath.Join(goroot, dir), "usr/local/go/"+dir)
		}
		for _, file := range []string{"go.env", "VERSION"} {
			w.file(filepath.Join(goroot, file), "usr/local/go/"+file)
		}
		w.tree(modules, "go/pkg/mod/cache/download")
		w.tree(cache, "cache")
		w.dir("tmp", 0o1777)
	})
}

// compiled is a build cache for the command in the Dockerfile.
func compiled(t testing.TB) string {
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -X main.release=", "-o", os.DevNull, "../cmd/revenant")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOCACHE="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// downloaded is a module cache with what `go mod download` needs and nothing else, from the one of
// this machine.
func downloaded(t testing.TB) string {
	dir := t.TempDir()
	cmd := exec.Command("go", "mod", "download")
	cmd.Env = append(os.Environ(), "GOMODCACHE="+dir, "GOFLAGS=-modcacherw",
		"GOPROXY=file://"+output(t, "go", "env", "GOMODCACHE")+"/cache/download,"+output(t, "go", "env", "GOPROXY"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod download: %v\n%s", err, out)
	}
	return filepath.Join(dir, "cache", "download")
}

// runStandIn is as empty as the image it stands for, but for the probe.
func runStandIn(t testing.TB) string {
	if images[prefix+"-run"] {
		return prefix + "-run"
	}
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the probe: %v\n%s", err, out)
	}
	return importImage(t, "run", nil, func(w *archive) {
		w.file(probe, "probe")
		w.text("etc/passwd", "nonroot:x:65532:65532::/:/none\n")
	})
}

// nginxStandIn is Debian's nginx and the libraries it is linked with.
func nginxStandIn(t testing.TB) string {
	if images[prefix+"-nginx"] {
		return prefix + "-nginx"
	}
	binary, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: nginx is not installed (Debian: nginx-light)")
	}
	return importImage(t, "nginx", []string{"ENV PATH=/usr/sbin", `CMD ["nginx"]`}, func(w *archive) {
		w.file(binary, "usr/sbin/nginx")
		for word := range strings.FieldsSeq(output(t, "ldd", binary)) {
			if strings.HasPrefix(word, "/") {
				w.file(word, word[1:])
			}
		}
		w.text("etc/passwd", "root:x:0:0::/:/none\n")
		w.dir("var/log/nginx", 0o755)
	})
}

// importImage makes an image of what fill writes and returns its name. TestMain removes it.
func importImage(t testing.TB, name string, changes []string, fill func(*archive)) string {
	t.Helper()
	image := prefix + "-" + name
	args := []string{"import", "--change", "LABEL " + prefix + "=1"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	cmd := exec.Command("docker", append(args, "-", image)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	// Ends with the last file, or when docker reads no more; received below.
	go func() {
		w := &archive{Writer: tar.NewWriter(in), made: map[string]bool{}}
		fill(w)
		if w.err == nil {
			w.err = w.Close()
		}
		in.Close()
		done <- w.err
	}()
	out, err := cmd.CombinedOutput()
	if written := <-done; err != nil || written != nil {
		t.Fatalf("docker import %s: %v, %v\n%s", image, err, written, out)
	}
	images[image] = true
	return image
}

// archive writes a root file system; the first error stays.
type archive struct {
	*tar.Writer
	made map[string]bool
	err  error
}

func (w *archive) dir(name string, mode int64) {
	if w.err != nil || name == "." || w.made[name] {
		return
	}
	w.dir(path.Dir(name), 0o755)
	w.made[name] = true
	w.err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (w *archive) text(name, content string) {
	w.write(name, 0o644, int64(len(content)), strings.NewReader(content))
}

// file copies a file, through links.
func (w *archive) file(from, name string) {
	if w.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		w.err = err
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		w.err = err
		return
	}
	w.write(name, int64(info.Mode().Perm()|0o444), info.Size(), f)
}

func (w *archive) write(name string, mode, size int64, content io.Reader) {
	w.dir(path.Dir(name), 0o755)
	w.made[name] = true
	if w.err == nil {
		w.err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size})
	}
	if w.err == nil {
		_, w.err = io.Copy(w, content)
	}
}

// tree copies a folder without what only tests need.
func (w *archive) tree(from, name string) {
	err := filepath.WalkDir(from, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir() && entry.Name() == "testdata":
			return fs.SkipDir
		case !entry.IsDir() && !strings.HasSuffix(file, "_test.go"):
			w.file(file, path.Join(name, rel))
		}
		return w.err
	})
	if w.err == nil && err != nil {
		w.err = fmt.Errorf("cannot copy %s: %w", from, err)
	}
}

// This file tests machines that are based on container images.

package main

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ociempty "github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"meros/bench/lab"
)

// TestOCI builds a machine on a container image, in every form that an image can
// have on a disk. All forms must give the same disk.
func TestOCI(t *testing.T) {
	lab.Long(t)
	t.Parallel()
	lab.NeedRoot(t)
	lab.Need(t, "qemu-img", "tar")
	p := lab.Built(t, "box")
	p.Write(t, "constellations/box/manifest.yml", plain)
	p.Write(t, "constellations/box/m/includes.chroot/etc/motd", "from a container\n")
	p.Write(t, "constellations/box/m/includes.chroot/etc/hosts", "10.9.9.9 myserver\n")
	p.Write(t, "constellations/box/m/hooks/01.chroot", "#!/bin/sh\nrm /etc/issue.net\nchown 7:9 /srv\nchmod 3775 /srv\n"+hookAttributes("/etc/motd"))
	p.Must(t, "build", "box")
	archive := p.Path("box.tar")
	p.Must(t, "export", "box", "m", "--format=oci", "--compress=zstd", "--output="+archive)
	want := filesOf(t, soundDisk(t, p.Path("data/disks/box-m.qcow2")), 1<<20)

	dir := p.Path("layout")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("lab/box:v1")
	if err != nil {
		t.Fatal(err)
	}
	other, err := name.NewTag("lab/box:v2")
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Architecture = "arm64"
	foreign, err := mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.MultiWriteToFile(p.Path("saved.tar"), map[name.Tag]v1.Image{tag: image, other: foreign}); err != nil {
		t.Fatal(err)
	}

	p.Write(t, "constellations/again/meros.lock", readFile(t, p.Path("constellations/box/meros.lock")))
	p.Write(t, "constellations/again/m/includes.chroot/etc/issue", "again\n")
	p.Write(t, "constellations/again/m/hooks/01.chroot", "#!/bin/sh\nset -e\ncat /etc/motd > /etc/hooked\n")
	if err := os.Chmod(p.Path("constellations/again/m/hooks/01.chroot"), 0o755); err != nil {
		t.Fatal(err)
	}
	disks := make(map[string]bool)
	for _, base := range []string{"oci:box.tar", "oci:layout", "oci:" + dir, "oci:saved.tar:v1", "oci:saved.tar:lab/box:v1"} {
		p.Write(t, "constellations/again/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, base: \""+base+"\"}\n")
		p.Must(t, "build", "again", "--locked", "--rootfs-only")
		disks[disk(t, p, "again-m")] = true
	}
	if len(disks) != 1 {
		t.Errorf("one image in several forms gives %d different disks", len(disks))
	}
	p.Write(t, "constellations/again/manifest.yml", plain)
	p.Must(t, "build", "again", "--locked", "--rootfs-only", "--use", "oci:"+dir)
	disks[disk(t, p, "again-m")] = true
	if len(disks) != 1 {
		t.Error("--use gives a different disk than base:")
	}
	got := filesOf(t, soundDisk(t, p.Path("data/disks/again-m.qcow2")), 1<<20)
	differingFiles(t, want, got, everything, map[string]string{"etc/issue": "again\n", "etc/hooked": "from a container\n"})
	if has := attributesOf(t, filepath.Join(got, "etc/motd")); has != "security.capability="+netRaw+" user.hook=h" {
		t.Errorf("/etc/motd has the attributes %q", has)
	}
	for _, tree := range []string{want, got} {
		if hosts := readFile(t, filepath.Join(tree, "etc/hosts")); !strings.HasPrefix(hosts, "127.0.0.1\tlocalhost\n127.0.1.1\tm\n") || !strings.HasSuffix(hosts, "\n10.9.9.9\tmyserver\n") {
			t.Errorf("/etc/hosts has %q", hosts)
		}
	}
	if hooked := readFile(t, filepath.Join(got, "etc/hooked")); hooked != "from a container\n" {
		t.Errorf("the hook saw %q", hooked)
	}

	t.Run("repeated layers", func(t *testing.T) { ociRepeated(t, p, image, want) })
	for base, words := range map[string][]string{
		"oci:saved.tar":         {"several images in it", "hint: name one after a colon: ", "lab/box:v1"},
		"oci:saved.tar:v3":      {"no image v3 in it", "hint: name one after a colon: ", "lab/box:v1"},
		"oci:saved.tar:v2":      {"an image for linux/arm64, not for linux/amd64"},
		"oci:nowhere":           {"nowhere does not exist", "docker://NAME:TAG"},
		"oci:constellations":    {"not an OCI image layout"},
		"oci:layout/index.json": {"neither an archive of docker save nor"},
	} {
		p.Write(t, "constellations/again/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, base: \""+base+"\"}\n")
		fails(t, p.Run(t, "build", "again", "--locked", "--rootfs-only"), 1, append(words, "plan again/m")...)
	}
	t.Run("registry", func(t *testing.T) { ociRegistry(t, p, image, disks) })
	t.Run("login", func(t *testing.T) { ociLogin(t, readFile(t, p.Path("constellations/again/meros.lock")), image) })

	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	first, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	blobs := filepath.Join(dir, "blobs/sha256")
	if err := os.WriteFile(filepath.Join(blobs, digest.Hex), []byte(readFile(t, filepath.Join(blobs, first.Hex))), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Write(t, "constellations/again/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, base: \"oci:layout\"}\n")
	o := p.Run(t, "build", "again", "--locked", "--rootfs-only")
	fails(t, o, 1, "the layer has the digest sha256:", "but the image says sha256:")
	if strings.Contains(o.Stderr, "panic") {
		t.Error(o.Stderr)
	}
	leftovers(t, p)
}

// ociRepeated builds machines on an image that has the same layers several times,
// as images from Dockerfiles do. It also builds on the exported image of such a
// machine.
func ociRepeated(t *testing.T, p *lab.Project, image v1.Image, want string) {
	made := func(files map[string]string) v1.Layer {
		t.Helper()
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, text := range files {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			w.Write([]byte(text))
		}
		w.Close()
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	adds, removes, empty := made(map[string]string{"srv/x": "there\n"}), made(map[string]string{"srv/.wh.x": ""}), made(nil)
	all, err := mutate.AppendLayers(image, adds, empty, removes, empty, adds, empty)
	if err != nil {
		t.Fatal(err)
	}
	dir := p.Path("repeated")
	if _, err := layout.Write(dir, mutate.AppendManifests(ociempty.Index, mutate.IndexAddendum{Add: all})); err != nil {
		t.Fatal(err)
	}
	added := map[string]string{"etc/issue": "again\n", "etc/hooked": "from a container\n", "srv/x": "there\n"}
	for _, base := range []string{"repeated", "again.tar"} {
		p.Write(t, "constellations/again/manifest.yml", "virtual_machines:\n  m: {suite: bookworm, base: \"oci:"+base+"\"}\n")
		p.Must(t, "build", "again", "--locked", "--rootfs-only")
		got := filesOf(t, soundDisk(t, p.Path("data/disks/again-m.qcow2")), 1<<20)
		differingFiles(t, want, got, everything, added)
		if base == "repeated" {
			p.Must(t, "export", "again", "m", "--format=oci", "--output="+p.Path("again.tar"))
		}
	}
}

// ociRegistry builds a machine on the same image from a registry, and checks that
// the lock pins it.
func ociRegistry(t *testing.T, p *lab.Project, image v1.Image, disks map[string]bool) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	tag, err := name.NewTag(host + "/lab/box:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		t.Fatal(err)
	}
	manifest := func(base string) string {
		return "virtual_machines:\n  m: {suite: bookworm, base: \"" + base + "\"}\n"
	}
	before := readFile(t, p.Path("constellations/again/meros.lock"))
	p.Write(t, "constellations/again/manifest.yml", plain)
	fails(t, p.Run(t, "build", "again", "--locked", "--rootfs-only", "--use", "docker://"+tag.Name()), 1, "meros build again m --use docker://"+tag.Name())
	p.Must(t, "build", "again", "--rootfs-only", "--use", "docker://"+tag.Name())
	p.Must(t, "plan", "again", "--rootfs-only", "--use", "docker://"+tag.Name())
	disks[disk(t, p, "again-m")] = true
	p.Write(t, "constellations/again/meros.lock", before)
	p.Write(t, "constellations/again/manifest.yml", manifest("docker://"+tag.Name()))
	fails(t, p.Run(t, "build", "again", "--locked", "--rootfs-only"), 1, "the base image of m (docker://"+tag.Name()+")")
	p.Must(t, "build", "again", "--rootfs-only")
	disks[disk(t, p, "again-m")] = true
	if len(disks) != 1 {
		t.Error("the image from a registry gives a different disk")
	}
	lock := readFile(t, p.Path("constellations/again/meros.lock"))
	if !strings.Contains(lock, "\nsource oci docker://"+tag.Name()+" amd64 ") || !strings.Contains(lock, "\nlayer ") {
		t.Errorf("the lock has no image:\n%s", lock)
	}
	// A build asks for neither the pinned tag nor layers that are in the cache.
	server.Close()
	p.Must(t, "build", "again", "--locked", "--rootfs-only")
	elsewhere := lab.New(t, map[string]string{"constellations/again/manifest.yml": manifest("docker://" + tag.Name()), "constellations/again/meros.lock": lock})
	fails(t, elsewhere.Run(t, "build", "again", "--locked", "--rootfs-only"), 1, "/lab/box:v1 layer 1")
	for base, words := range map[string][]string{
		"docker://" + host + "/lab/none:v1": {"image docker://" + host + "/lab/none:v1"},
	} {
		p.Write(t, "constellations/again/manifest.yml", manifest(base))
		fails(t, p.Run(t, "build", "again", "--rootfs-only"), 1, words...)
	}
	p.Write(t, "constellations/again/manifest.yml", manifest("docker://-x"))
	fails(t, p.Run(t, "build", "again", "--rootfs-only"), exitUsage, "not a valid reference to an image in a registry")
}

// ociLogin builds a machine on an image in a registry that requires a login. The
// password must not appear in the data directory, the lock or the messages.
func ociLogin(t *testing.T, lock string, image v1.Image) {
	const user, password = "eve", "n0body-knows-it"
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	tag, err := name.NewTag(host + "/lab/box:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatal(err)
	}
	lock = lock[:strings.Index(lock, "\nsource ")]
	p := lab.New(t, map[string]string{"constellations/again/manifest.yml": "virtual_machines:\n  m: {suite: bookworm, base: \"docker://" + tag.Name() + "\"}\n", "constellations/again/meros.lock": lock})
	home := t.TempDir()
	build := func(password string, args ...string) *lab.Outcome {
		config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
		if err := os.WriteFile(filepath.Join(home, "auth.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := p.Command(t, append([]string{"build", "again", "--rootfs-only"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+home, "REGISTRY_AUTH_FILE="+filepath.Join(home, "auth.json"))
		return lab.Finish(t, cmd)
	}
	fails(t, build("wrong"), 1, "not for the credentials in", "podman login "+host)
	first := build(password, "-v")
	if first.Exit != 0 {
		t.Fatal(first.Stderr)
	}
	if err := os.RemoveAll(p.Path("data")); err != nil {
		t.Fatal(err)
	}
	fails(t, build("wrong", "--locked"), 1, "/lab/box:v1 layer 1", "not for the credentials in", "podman login "+host)
	again := build(password, "--locked", "-v")
	if again.Exit != 0 {
		t.Fatal(again.Stderr)
	}
	texts := map[string]string{"stderr": first.Stderr + again.Stderr, "lock": readFile(t, p.Path("constellations/again/meros.lock"))}
	err = filepath.WalkDir(p.Path("data"), func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			texts[file] = readFile(t, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range texts {
		if strings.Contains(text, password) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(user+":"+password))) {
			t.Errorf("the password is in %s", where)
		}
	}
}

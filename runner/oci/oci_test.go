// This file tests archives and layouts, hostile ones included.

package oci

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// archive writes an archive of entries, in order: names and contents. A content that
// begins with "->" makes a symbolic link.
func archive(t *testing.T, entries ...[2]string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "saved.tar")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, e := range entries {
		h := &tar.Header{Name: e[0], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e[1]))}
		to, link := strings.CutPrefix(e[1], "->")
		if link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if !link {
			io.WriteString(w, e[1])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func config(layer string) string {
	return fmt.Sprintf(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}`, sum(layer))
}

// An archive of an old Docker has each layer once, and links to it.
func TestArchiveWithLinks(t *testing.T) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	w.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755})
	w.Close()
	file := archive(t, [2]string{"b/layer.tar", "->../a/layer.tar"}, [2]string{"a/layer.tar", layer.String()}, [2]string{"c.json", config(layer.String())},
		[2]string{"manifest.json", `[{"Config":"c.json","RepoTags":["x:1"],"Layers":["b/layer.tar"]}]`})
	layers, err := Open(file, "", "amd64")
	if err != nil || len(layers) != 1 {
		t.Fatalf("%v, %v", layers, err)
	}
	err = layers[0].Read(func(r io.Reader) error {
		h, err := tar.NewReader(r).Next()
		if err == nil && h.Name != "etc/" {
			t.Errorf("the layer has %q", h.Name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	layers[0].DiffID = sum("another")
	if err := layers[0].Read(func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err == nil || !strings.Contains(err.Error(), "but the image says sha256:") {
		t.Errorf("another layer: %v", err)
	}
}

// Open and Read refuse broken and hostile archives.
func TestArchiveRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		entries [][2]string
		want    string
	}{
		"empty":                {nil, "neither an archive"},
		"no layer":             {[][2]string{{"c.json", config("")}, {"manifest.json", `[{"Config":"c.json","Layers":[]}]`}}, "layers"},
		"a large config":       {[][2]string{{"c", strings.Repeat(" ", maxDocument+1)}, {"manifest.json", `[{"Config":"c","Layers":["l"]}]`}}, "c has 1048577 bytes"},
		"two of one tag":       {[][2]string{{"c.json", config("")}, {"manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]},{"Config":"c.json","RepoTags":["b:1"],"Layers":["l"]}]`}}, "several images called 1"},
		"links without an end": {[][2]string{{"l", "->m"}, {"m", "->l"}, {"c.json", config("")}, {"manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l"]}]`}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			layers, err := Open(archive(t, test.entries...), map[bool]string{true: "1"}[strings.Contains(name, "tag")], "amd64")
			if err == nil {
				err = layers[0].Read(func(io.Reader) error { return nil })
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// Open refuses an index that names itself, and documents with a wrong digest.
func TestLayoutRefuses(t *testing.T) {
	self := sum("self")
	index := func(digest, kind string) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.%s.v1+json","digest":"sha256:%s","size":1}]}`, kind, digest)
	}
	for name, blob := range map[string]string{
		"index":    index(self, "index"),
		"manifest": fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":1},"layers":[]}`, self),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": index(self, name), "blobs/sha256/" + self: blob} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := Open(dir, "", "amd64"); err == nil || !strings.Contains(err.Error(), "has the digest sha256:") {
				t.Errorf("%v", err)
			}
		})
	}
}

// Open refuses documents that are too large.
func TestLargeDocuments(t *testing.T) {
	manifest := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + sum("config") + `","size":6},"layers":[]}`
	for _, large := range []string{"index.json", "blobs/sha256/" + sum(manifest), "blobs/sha256/" + sum("config")} {
		dir := t.TempDir()
		for file, text := range map[string]string{
			"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "blobs/sha256/" + sum(manifest): manifest, "blobs/sha256/" + sum("config"): "config",
			"index.json": `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + sum(manifest) + `","size":1}]}`,
		} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Truncate(filepath.Join(dir, large), 1<<40); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, "", "amd64"); err == nil || !strings.Contains(err.Error(), filepath.Base(large)+" is larger than 1048576 bytes") {
			t.Errorf("%s: %v", large, err)
		}
	}
}

// Open does not block on pipes in place of files.
func TestPipes(t *testing.T) {
	for _, name := range []string{"", "index.json", "oci-layout", "blobs/sha256/" + sum("manifest")} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "blobs/sha256/" + sum("other"): "",
				"index.json": `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + sum("manifest") + `","size":1}]}`,
			} {
				if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755), os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			pipe, words := filepath.Join(dir, name), name+" is not a regular file"
			if name == "" {
				pipe, words = filepath.Join(dir, "pipe"), "neither a file nor a directory"
				dir = pipe
			}
			os.Remove(pipe)
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, "", "amd64"); err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%v, want %q", err, words)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte(`[{"Config":"c","Layers":["l"]}]`), []byte(config("")))
	f.Fuzz(func(t *testing.T, manifest, conf []byte) {
		file := archive(t, [2]string{"manifest.json", string(manifest)}, [2]string{"c", string(conf)}, [2]string{"l", ""})
		layers, err := Open(file, "", "amd64")
		if err == nil && len(layers) == 0 {
			t.Error("an image without layers is accepted")
		}
	})
}

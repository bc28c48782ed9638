// This file writes a lock, and finds writers that did not finish.

package constellations

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const lockHeader = `# Written by meros, which reads it again: edit the manifest, not this file.
# Keep it under version control, so that everybody builds from the same packages.
meros-lock 1
`

// Encode returns the text of the lock. Equal locks give equal bytes.
func (l *Lock) Encode() []byte {
	var b bytes.Buffer
	b.WriteString(lockHeader)
	sections := slices.Clone(l.Sections)
	slices.SortFunc(sections, func(x, y SectionLock) int {
		return slices.Compare([]string{x.Distribution, x.Suite, x.Arch, x.Mirror}, []string{y.Distribution, y.Suite, y.Arch, y.Mirror})
	})
	for _, d := range sections {
		b.WriteString("\n" + strings.TrimRight(fmt.Sprintf("%s %s %s %s", d.Distribution, d.Suite, d.Arch, d.Mirror), " ") + "\n")
		fmt.Fprintf(&b, "date %s\n", d.Date.UTC().Format(time.RFC3339))
		for _, i := range d.Indexes {
			fmt.Fprintf(&b, "index %s %s %s\n", i.Archive, i.Suite, i.SHA256)
		}
		b.WriteString("base\n")
		writePackages(&b, d.Base)
		sets := slices.Clone(d.Sets)
		slices.SortFunc(sets, func(x, y PackageSet) int { return slices.Compare(x.Names, y.Names) })
		for _, s := range sets {
			fmt.Fprintf(&b, "set %s\n", strings.Join(s.Names, " "))
			writePackages(&b, s.Packages)
		}
		if len(d.Single) > 0 {
			b.WriteString("alone\n")
			single := slices.Clone(d.Single)
			slices.SortFunc(single, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
			writePackages(&b, single)
		}
		b.WriteString("kernel\n")
		writePackages(&b, d.Kernel)
	}
	writeSources(&b, l.Sources)
	return b.Bytes()
}

func writeSources(b *bytes.Buffer, sources []Source) {
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(x, y Source) int {
		return slices.Compare([]string{string(x.Kind), x.URL, x.Ref}, []string{string(y.Kind), y.URL, y.Ref})
	})
	for i, s := range sources {
		if i == 0 {
			b.WriteByte('\n')
		}
		switch s.Kind {
		case KernelGit:
			fmt.Fprintf(b, "source git %s %s %s\n", s.URL, s.Ref, s.Commit)
		case SourceRegistry:
			fmt.Fprintf(b, "source oci %s %s %s\n", s.URL, s.Ref, s.SHA256)
			for _, l := range s.Layers {
				fmt.Fprintf(b, "layer %s %d %s\n", l.SHA256, l.Size, l.DiffID)
			}
		default:
			fmt.Fprintf(b, "source %s %s %d %s\n", s.Kind, s.URL, s.Size, s.SHA256)
		}
	}
}

func writePackages(b *bytes.Buffer, ps []Package) {
	for _, p := range ps {
		fmt.Fprintf(b, "package %s %s %s %s %s %d %s\n", p.Name, p.Version, p.Arch, p.Archive, p.Filename, p.Size, p.SHA256)
	}
}

// unfinishedLock begins the names of files that [WriteLock] has not renamed yet.
const unfinishedLock = ".meros.lock-"

// WriteLock replaces file with the lock atomically.
func WriteLock(file string, l *Lock) error {
	f, err := os.CreateTemp(filepath.Dir(file), unfinishedLock+"*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(l.Encode())
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// UnfinishedLocks returns the temporary files of [WriteLock] in a directory. Their
// writers are at work, or were killed. The files are beside the lock, because that
// directory may be on a file system of its own.
func UnfinishedLocks(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var files []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinishedLock) && e.Type().IsRegular() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files
}

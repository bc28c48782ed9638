// This file writes dpkg's database for packages that dpkg did not unpack itself.

package debian

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// dpkgDir is the directory of dpkg's database, dpkg(1).
const dpkgDir = "var/lib/dpkg"

// writeDatabase writes a database in which all packages are unpacked and none is
// configured.
func writeDatabase(t tree, debs []*deb, packages []unpacked) error {
	for _, d := range []string{"alternatives", "info", "parts", "triggers", "updates"} {
		if err := t.mkdirs(path.Join(dpkgDir, d)); err != nil {
			return err
		}
	}
	var status bytes.Buffer
	for i, d := range debs {
		for name, data := range d.scripts {
			if name == "control" {
				continue
			}
			perm := uint32(0o644)
			if d.modes[name]&0o100 != 0 {
				perm = 0o755
			}
			if err := t.write(infoFile(d, name), data, perm); err != nil {
				return err
			}
		}
		list := strings.Join(packages[i].list, "\n") + "\n"
		if err := t.write(infoFile(d, "list"), []byte(list), 0o644); err != nil {
			return err
		}
		writeStatus(&status, d)
	}
	files := triggerFiles(debs)
	files["status"], files["info/format"] = status.String(), "1\n"
	for _, name := range []string{"available", "diversions", "statoverride"} {
		files[name] = ""
	}
	for name, text := range files {
		if err := t.write(path.Join(dpkgDir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func multiArchSame(d *deb) bool { return d.control.get("Multi-Arch") == "same" }

// infoFile returns the path of the file in which dpkg stores a part of a package.
func infoFile(d *deb, part string) string {
	name := d.name()
	if multiArchSame(d) {
		name += ":" + d.arch()
	}
	return path.Join(dpkgDir, "info", name+"."+part)
}

// writeStatus writes the paragraph of an unpacked package. With "newconffile",
// dpkg marks a conffile that it has not compared with an older one.
func writeStatus(w *bytes.Buffer, d *deb) {
	fmt.Fprintf(w, "Package: %s\nStatus: install ok unpacked\n", d.name())
	for _, f := range d.control {
		if !strings.EqualFold(f.name, "Package") {
			fmt.Fprintf(w, "%s: %s\n", f.name, f.value)
		}
	}
	if names := confFileNames(d); len(names) > 0 {
		w.WriteString("Conffiles:\n")
		for _, n := range names {
			fmt.Fprintf(w, " %s newconffile\n", n)
		}
	}
	w.WriteByte('\n')
}

// confFileNames returns the lines of deb-conffiles(5) that name a file.
func confFileNames(d *deb) []string {
	var names []string
	for line := range strings.Lines(string(d.scripts["conffiles"])) {
		if line = strings.TrimRight(line, " \t\r\n"); strings.HasPrefix(line, "/") {
			names = append(names, line)
		}
	}
	return names
}

func confFiles(d *deb) map[string]bool {
	m := make(map[string]bool)
	for _, n := range confFileNames(d) {
		m[path.Clean(n)] = true
	}
	return m
}

// triggerFiles returns the files that register which packages are interested in
// which triggers, deb-triggers(5). dpkg's document triggers.txt describes them.
func triggerFiles(debs []*deb) map[string]string {
	files := make(map[string]string)
	var byPath []string
	for _, d := range debs {
		for line := range strings.Lines(string(d.scripts["triggers"])) {
			line, _, _ = strings.Cut(line, "#")
			f := strings.Fields(line)
			if len(f) != 2 || !strings.HasPrefix(f[0], "interest") {
				continue
			}
			pkg := d.name()
			if multiArchSame(d) {
				pkg += ":" + d.arch()
			}
			if f[0] == "interest-noawait" {
				pkg += "/noawait"
			}
			if strings.HasPrefix(f[1], "/") {
				byPath = append(byPath, f[1]+" "+pkg)
			} else if validControlName(f[1]) {
				files["triggers/"+f[1]] += pkg + "\n"
			}
		}
	}
	slices.Sort(byPath)
	files["triggers/File"] = strings.Join(append(byPath, ""), "\n")
	return files
}

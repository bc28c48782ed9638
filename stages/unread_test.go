// These tests look for unused files in a constellation.

package stages_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"meros/constellations"
	"meros/stages"
)

func TestUnread(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"web/includes.chroot/etc/motd": "", "web/hooks/0100-app.chroot": "#!/bin/sh\n", "web/hooks/0200-app.sh": "#!/bin/sh\n",
		"web/hooks/README": "notes\n", "web/hooks/0100-app.chroot~": "#!/bin/sh\n", "db/include.chroot/etc/motd": "", "db/owners": "", "db/hook/0100-a.chroot": "", "db/dump.sql": "",
		"wbe/hooks/0100-app.chroot": "", "old/hooks/0100-app.chroot": "", "site/index.html": "", "common/hooks/.swp": "#!/bin/sh\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := stages.Unread(&constellations.Manifest{Name: "shop", Dir: dir, Machines: []constellations.Machine{{Name: "web"}, {Name: "db"}}})
	want := []string{
		`db/hook is not used; did you mean "hooks"?`,
		`db/include.chroot is not used; did you mean "includes.chroot"?`,
		"old is not used: no machine has this name",
		`wbe is not used: no machine has this name; did you mean "web"?`,
		"web/hooks/0200-app.sh is not run: the names of hooks end in .chroot",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n got %q\nwant %q", err, got, want)
	}
	if err := os.RemoveAll(filepath.Join(dir, "web/includes.chroot")); err != nil {
		t.Fatal(err)
	}
	got, err = stages.Unread(&constellations.Manifest{Name: "shop", Dir: dir, Machines: []constellations.Machine{{Name: "web"}, {Name: "db"}}})
	if err != nil || !slices.Contains(got, "db/owners is not used: there is no includes.chroot") {
		t.Errorf("without files: %q, %v", got, err)
	}
}

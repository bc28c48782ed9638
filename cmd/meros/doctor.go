package main

import (
	"fmt"
	"os"
	"strings"

	"meros/cache"
)

type doctorCmd struct {
	Fix     bool   `help:"Do what can be done safely: remove what killed builds left behind."`
	JSON    bool   `name:"json" help:"Print JSON: [{\"name\", \"status\", \"detail\", \"without\", \"fix\"}]; status is ok, limited or broken."`
	Inside  bool   `hidden:"" help:"Try a sandbox, in the namespace that this is."`
	Foreign string `hidden:"" help:"For programs of this architecture."`
}

// How a finding is.
const (
	findingOK      = "ok"
	findingLimited = "limited" // something that not everybody uses does not work, or is slow
	findingBroken  = "broken"  // nothing can be built
)

// finding is one thing that meros needs of the host.
type finding struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Detail  string `json:"detail,omitempty"`
	Without string `json:"without,omitempty"` // what does not work
	Fix     string `json:"fix,omitempty"`     // what the user can do, on this distribution
}

// Run implements the verb: it looks at all that meros needs of this host.
func (c *doctorCmd) Run(e *env) error {
	switch {
	case c.Inside && c.Fix:
		_, err := e.eachScratchDir(cache.Reclaim)
		return err
	case c.Inside:
		return trySandbox(e.ctx, c.Foreign)
	}
	var all []finding
	for _, look := range []func(*env) []finding{lookAtSandbox, lookAtTools, lookAtDevices, lookAtRoom, lookAtMirror, c.lookAtLeftovers} {
		all = append(all, look(e)...)
	}
	if c.JSON {
		if err := e.sayJSON(all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			f.print(e)
		}
	}
	for _, f := range all {
		if f.Status == findingBroken {
			return exitStatus(exitFailed)
		}
	}
	return nil
}

func (f finding) print(e *env) {
	e.ui.say("%-8s %-22s %s", f.Status, f.Name, f.Detail)
	if f.Status == findingOK {
		return
	}
	if f.Without != "" {
		e.ui.say("         without: %s", f.Without)
	}
	if f.Fix != "" {
		e.ui.say("         fix:     %s", f.Fix)
	}
}

// distribution is the family of this host's distribution, os-release(5):
// "debian", "fedora", "alpine", "arch", "suse", or "".
func distribution() string {
	b, _ := os.ReadFile("/etc/os-release")
	var ids []string
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "ID" || key == "ID_LIKE" {
			ids = append(ids, strings.Fields(strings.Trim(value, `"'`))...)
		}
	}
	for _, id := range ids {
		switch id {
		case "debian", "ubuntu":
			return "debian"
		case "fedora", "rhel", "centos":
			return "fedora"
		case "alpine", "arch", "suse":
			return id
		}
	}
	return ""
}

// install is the command that installs a package, whose names are by the
// families of distributions.
func install(family string, names map[string]string) string {
	name := names[family]
	if name == "" {
		name = names["debian"]
	}
	switch family {
	case "debian":
		return "apt install " + name
	case "fedora":
		return "dnf install " + name
	case "alpine":
		return "apk add " + name
	case "arch":
		return "pacman -S " + name
	case "suse":
		return "zypper install " + name
	}
	return "install " + name
}

// lookAtLeftovers looks for what runs that were killed left behind.
func (c *doctorCmd) lookAtLeftovers(e *env) []finding {
	f := finding{Name: "leftovers", Status: findingOK, Detail: "no killed build left anything behind"}
	n, err := e.eachScratchDir(cache.Dead)
	if n > 0 && c.Fix {
		// They may have files of the ids that only a namespace of ours has.
		if err = inside(e, "doctor", "--inside", "--fix"); err == nil {
			f.Detail = fmt.Sprintf("removed what %d killed builds had left behind", n)
			n = 0
		}
	}
	switch {
	case err != nil:
		f.Status, f.Detail, f.Without = findingLimited, err.Error(), "the room that killed builds take"
	case n > 0:
		f = finding{Name: "leftovers", Status: findingLimited, Detail: fmt.Sprintf("%d killed builds left their work behind", n), Without: "the room they take, until the next build removes them", Fix: "meros doctor --fix"}
	}
	return []finding{f}
}

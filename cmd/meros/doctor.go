// This file is the verb doctor: it prints the state of each thing that meros needs of this
// host, and how to get the missing ones. doctor_host.go has the checks.

package main

import (
	"os"
	"strings"

	"meros/cache"
)

type doctorCmd struct {
	Fix     bool   `help:"Repair what is safe to repair: remove the work of interrupted builds."`
	JSON    bool   `name:"json" help:"Print JSON: [{\"name\", \"status\", \"detail\", \"without\", \"fix\"}]; status is ok, limited or broken."`
	Inside  bool   `hidden:"" help:"Try a sandbox in this namespace."`
	Foreign string `hidden:"" help:"Try programs of this architecture."`
}

// The status of a finding.
const (
	findingOK      = "ok"
	findingLimited = "limited" // something that not every user needs fails, or is slow
	findingBroken  = "broken"  // nothing can be built
)

// finding is the state of one thing that meros needs of the host.
type finding struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Detail  string `json:"detail,omitempty"`
	Without string `json:"without,omitempty"` // features that do not work
	Fix     string `json:"fix,omitempty"`     // a command or advice for this distribution
}

// Run implements the verb.
func (c *doctorCmd) Run(e *env) error {
	switch {
	case c.Inside && c.Fix:
		_, err := e.eachScratchDir(cache.Reclaim)
		return err
	case c.Inside:
		return trySandbox(e.ctx, c.Foreign)
	}
	var all []finding
	for _, check := range []func(*env) []finding{checkSandbox, checkTools, checkDevices, checkSpace, checkMirror, c.checkLeftovers} {
		all = append(all, check(e)...)
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

// print prints the finding in one to three lines.
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

// distribution returns the family of this host's distribution, os-release(5): "debian",
// "fedora", "alpine", "arch", "suse", or "".
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

// install returns the command that installs a package. names maps families of distributions
// to the names of the package.
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

// checkLeftovers looks for the work of interrupted runs.
func (c *doctorCmd) checkLeftovers(e *env) []finding {
	f := finding{Name: "leftovers", Status: findingOK, Detail: "no interrupted build left files behind"}
	n, err := e.eachScratchDir(cache.Dead)
	if n > 0 && c.Fix {
		// The owners of the files may be IDs that only a namespace of meros has.
		if err = inside(e, "doctor", "--inside", "--fix"); err == nil {
			f.Detail = "removed the work of " + counted(n, "interrupted build")
			n = 0
		}
	}
	switch {
	case err != nil:
		f.Status, f.Detail, f.Without, f.Fix = findingLimited, err.Error(), "interrupted builds waste disk space", fixOf(err)
	case n > 0:
		f = finding{Name: "leftovers", Status: findingLimited, Detail: counted(n, "interrupted build") + " left files behind", Without: "they waste disk space until the next build removes them", Fix: "meros doctor --fix"}
	}
	return []finding{f}
}

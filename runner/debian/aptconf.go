package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
)

// transportOption are the host's options that a resolver keeps: they say how
// a network is reached, and nothing of whom to trust but whether the dates of
// an archive matter, which must be off where archives are frozen snapshots.
var transportOption = regexp.MustCompile(
	`^Acquire::(https?(::[^"]*)?|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Max-FutureTime) "[^"]*";$`)

// hostTransport reads the host's own apt configuration with apt's own program.
func hostTransport(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-config", "dump")
	cmd.Env = aptEnv()
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil // apt-get is missing too, and said so with a hint
	}
	if err != nil {
		return "", fmt.Errorf("apt-config dump: %w", err)
	}
	var kept bytes.Buffer
	for line := range bytes.Lines(out) {
		if transportOption.Match(bytes.TrimRight(line, "\n")) {
			kept.Write(line)
		}
	}
	return kept.String(), nil
}

// aptConf is an apt.conf(5) under which apt sees nothing but what is in dir.
func aptConf(dir, arch, sandboxUser, transport string) string {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s \"%s\";\n", name, value) }
	set("Acquire::Retries", "2")
	set("Acquire::http::Timeout", "30")
	set("Acquire::https::Timeout", "30")
	b.WriteString(transport)
	for name, file := range map[string]string{
		"Dir": "", "Dir::State": "", "Dir::State::lists": "lists/", "Dir::State::status": "status",
		"Dir::State::extended_states": "extended_states", "Dir::Cache": "cache/", "Dir::Cache::archives": "cache/archives/", "Dir::Log": "log/",
		"Dir::Etc": "etc/", "Dir::Etc::sourcelist": "etc/empty/none", "Dir::Etc::sourceparts": "etc/sources.d/",
		"Dir::Etc::main": "etc/empty/none", "Dir::Etc::parts": "etc/empty/", "Dir::Etc::netrc": "etc/empty/none", "Dir::Etc::netrcparts": "etc/empty/",
		"Dir::Etc::preferences": "etc/empty/none", "Dir::Etc::preferencesparts": "etc/empty/",
		"Dir::Etc::trusted": "etc/empty/none", "Dir::Etc::trustedparts": "etc/empty/",
	} {
		slash := ""
		if strings.HasSuffix(file, "/") {
			slash = "/"
		}
		set(name, filepath.Join(dir, file)+slash)
	}
	set("APT::Architecture", arch)
	b.WriteString("#clear APT::Architectures;\n")
	set("APT::Architectures::", arch)
	set("APT::Sandbox::User", sandboxUser)
	set("APT::Install-Recommends", "false")
	set("APT::Install-Suggests", "false")
	set("APT::Get::AllowUnauthenticated", "false")
	set("Acquire::AllowInsecureRepositories", "false")
	set("Acquire::AllowWeakRepositories", "false")
	set("Acquire::AllowDowngradeToInsecureRepositories", "false")
	set("Acquire::ForceHash", "SHA256")
	set("Acquire::Languages", "none")
	return b.String()
}

// sandboxUser is whom apt's downloaders run as. As root they drop to _apt if
// that user can reach dir; in a user namespace there may be no such user.
func sandboxUser(dir string) string {
	if _, err := user.Lookup("_apt"); err != nil || os.Geteuid() != 0 || !initialUserNamespace() {
		return "root" // apt's word for: do not change the user
	}
	for d := dir; ; d = filepath.Dir(d) {
		if fi, err := os.Stat(d); err != nil || fi.Mode()&0o001 == 0 {
			return "root"
		}
		if d == filepath.Dir(d) {
			return "_apt"
		}
	}
}

func initialUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(m)), " ") == "0 0 4294967295"
}

// aptError is the failure of one of apt's programs.
type aptError struct {
	argv   []string
	err    error
	stderr string
}

func (e *aptError) Error() string {
	said := strings.Join(e.lines(), "; ")
	if said == "" {
		said = e.err.Error()
	}
	return fmt.Sprintf("%s: %s", strings.Join(e.argv[:min(2, len(e.argv))], " "), said)
}

func (e *aptError) Unwrap() error { return e.err }

// lines are the errors, else the warnings, that it printed.
func (e *aptError) lines() []string {
	var found []string
	for _, prefix := range []string{"E: ", "W: "} {
		for line := range strings.Lines(e.stderr) {
			if s, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), prefix); ok {
				found = append(found, s)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	return found
}

// noSuite begins the hints of a suite that an archive does not have.
const noSuite = "there is no such suite in that archive"

// ErrNoSuite is that an archive does not have the suite.
var ErrNoSuite = errors.New(noSuite)

// suites are the names of releases that are or were supported in 2026, of
// https://wiki.debian.org/DebianReleases and https://wiki.ubuntu.com/Releases.
var suites = map[string][]string{
	"":     {"buster", "bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"},
	Ubuntu: {"xenial", "bionic", "focal", "jammy", "noble", "plucky", "questing", "resolute", "devel"},
}

// Suites are names that a suite of a distribution may have been meant to have.
func Suites(distribution string) []string {
	if distribution != Ubuntu {
		distribution = ""
	}
	return suites[distribution]
}

// updateHints say what apt's messages mean for someone who builds images; the
// first that matches is given.
var updateHints = []struct{ said, hint string }{
	{"NO_PUBKEY", "signed with a key that is not in %keyring (upgrade the package %package; a suite newer than the host needs its newer keys)"},
	{"Missing key", "signed with a key that is not in %keyring (upgrade the package %package; a suite newer than the host needs its newer keys)"},
	{"BADSIG", "bad signature: the index was changed on the way, or the mirror is being updated (try another mirror)"},
	{"NOSPLIT", "what came is not a signed index (an HTML page of a proxy or login portal?)"},
	{"NODATA", "what came is not a signed index (an HTML page of a proxy or login portal?)"},
	{"isn't valid", "what came is not a signed index (an HTML page of a proxy or login portal?)"},
	{"not valid yet", "the clock of this machine is behind the archive's: set it"},
	{"is expired", "the mirror is out of date, or the clock of this machine is wrong"},
	{"404", noSuite + " (check the manifest's suite and mirror)"},
	{"is not signed", "the archive is not signed, and refused"},
	{"does not have a Release file", noSuite + ", or no signature (check the manifest's suite and mirror)"},
	{"resolving", "the name of the mirror cannot be resolved (is the network up?)"},
	{"resolve", "the name of the mirror cannot be resolved (is the network up?)"},
	{"connect", "the mirror does not answer (is it up? does this machine need a proxy?)"},
	{"imed out", "the mirror does not answer (is it up? does this machine need a proxy?)"},
	{"Hash Sum mismatch", "an index is not what the signed one says it is: the mirror is being updated (try again later)"},
	{"unexpected size", "an index is not what the signed one says it is: the mirror is being updated (try again later)"},
	{"No space left", "the disk is full"},
}

// explainUpdate adds to what apt said when it could not read the archives.
func (r *Resolver) explainUpdate(err error) error {
	var e *aptError
	if !errors.As(err, &e) {
		return err
	}
	for _, h := range updateHints {
		if strings.Contains(e.stderr, h.said) {
			hint := strings.NewReplacer("%keyring", strings.Join(r.opts.Keyrings, " or "), "%package", r.opts.keys().pkg).Replace(h.hint)
			if rest, ok := strings.CutPrefix(hint, noSuite); ok {
				return fmt.Errorf("the archives of %s cannot be used: %w%s: %w", r.opts.Suite, ErrNoSuite, rest, err)
			}
			return fmt.Errorf("the archives of %s cannot be used: %s: %w", r.opts.Suite, hint, err)
		}
	}
	return fmt.Errorf("the archives of %s cannot be used: %w", r.opts.Suite, err)
}

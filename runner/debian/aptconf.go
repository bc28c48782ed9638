// This file writes apt's configuration and explains apt's errors.

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
	"slices"
	"strings"

	"meros/runner/hint"
)

// transportOption matches the host's options that a resolver adopts. They
// describe how to reach a network. They do not change whom apt trusts, except
// for the checks of dates, which must be off for frozen snapshots of archives.
var transportOption = regexp.MustCompile(
	`^Acquire::(https?(::[^"]*)?|Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|Max-FutureTime) "[^"]*";$`)

// hostTransport asks apt-config(8) for these options of the host.
func hostTransport(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-config", "dump")
	cmd.Env = aptEnv()
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", nil // apt-get is missing as well, and its error has a hint
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

// aptConf returns an apt.conf(5) under which apt only uses files in dir.
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

// sandboxUser returns the user of apt's downloaders. For root this is _apt, if
// that user can reach dir. In a user namespace that user may not exist.
func sandboxUser(dir string) string {
	if _, err := user.Lookup("_apt"); err != nil || os.Geteuid() != 0 || !initialUserNamespace() {
		return "root" // with this value, apt does not change the user
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

// aptError means that one of apt's programs failed.
type aptError struct {
	argv   []string
	err    error
	stderr string
}

func (e *aptError) Error() string {
	cause := strings.Join(e.lines(), "; ")
	if cause == "" {
		cause = e.err.Error()
	}
	return fmt.Sprintf("%s: %s", strings.Join(e.argv[:min(2, len(e.argv))], " "), cause)
}

func (e *aptError) Unwrap() error { return e.err }

// lines returns the errors that the program printed. Without errors it returns
// the warnings.
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

// ErrNoSuite means that an archive does not have the suite.
var ErrNoSuite = errors.New("there is no such suite in that archive")

// suites lists the releases that were supported in 2026 or before, see
// https://wiki.debian.org/DebianReleases and https://wiki.ubuntu.com/Releases.
var suites = map[string][]string{
	"":     {"buster", "bullseye", "bookworm", "trixie", "forky", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable"},
	Ubuntu: {"xenial", "bionic", "focal", "jammy", "noble", "plucky", "questing", "resolute", "devel"},
}

// Suites returns the names of a distribution's suites, to suggest one instead of
// a misspelt name.
func Suites(distribution string) []string {
	if distribution != Ubuntu {
		distribution = ""
	}
	return suites[distribution]
}

// updateFailure explains a message of apt.
type updateFailure struct {
	message string // part of apt's message
	cause   error
	hint    string // may be ""
}

var (
	errUnknownKey = errors.New("signed with a key that is not in") // the keyring follows
	errNotIndex   = errors.New("the answer is not a signed index")
	errNoName     = errors.New("the name of the mirror cannot be resolved")
	errNoAnswer   = errors.New("the mirror does not answer")
	errMismatch   = errors.New("an index does not match the signed one")
)

const (
	hintPortal = "a proxy or a login portal may have sent an HTML page"
	hintSuite  = "check the suite and the mirror in the manifest"
	hintUp     = "check that the network is up"
	hintProxy  = "check that the mirror is up, and whether this machine needs a proxy"
	hintLater  = "the mirror is being updated: try again later"
)

// updateFailures explains apt's messages to a user who builds images. The first
// match counts.
var updateFailures = []updateFailure{
	{"NO_PUBKEY", errUnknownKey, ""},
	{"Missing key", errUnknownKey, ""},
	{"BADSIG", errors.New("bad signature: the index was changed on its way, or the mirror is being updated"), "try another mirror"},
	{"NOSPLIT", errNotIndex, hintPortal},
	{"NODATA", errNotIndex, hintPortal},
	{"isn't valid", errNotIndex, hintPortal},
	{"not valid yet", errors.New("the clock of this machine is behind the archive's"), "set the clock"},
	{"is expired", errors.New("the mirror is out of date, or the clock of this machine is wrong"), ""},
	{"404", ErrNoSuite, hintSuite},
	{"is not signed", errors.New("the archive is not signed"), ""},
	{"does not have a Release file", fmt.Errorf("%w, or no signature", ErrNoSuite), hintSuite},
	{"resolving", errNoName, hintUp},
	{"resolve", errNoName, hintUp},
	{"connect", errNoAnswer, hintProxy},
	{"imed out", errNoAnswer, hintProxy},
	{"Hash Sum mismatch", errMismatch, hintLater},
	{"unexpected size", errMismatch, hintLater},
	{"No space left", errors.New("the disk is full"), ""},
}

// explainUpdate adds the cause and a hint to apt's error about the archives.
func (r *Resolver) explainUpdate(err error) error {
	var e *aptError
	if !errors.As(err, &e) {
		return err
	}
	i := slices.IndexFunc(updateFailures, func(f updateFailure) bool { return strings.Contains(e.stderr, f.message) })
	if i < 0 {
		return fmt.Errorf("cannot use the archives of %s: %w", r.opts.Suite, err)
	}
	cause, next := updateFailures[i].cause, updateFailures[i].hint
	if cause == errUnknownKey {
		cause = fmt.Errorf("%w %s", cause, strings.Join(r.opts.Keyrings, " or "))
		next = fmt.Sprintf("upgrade the package %s: a suite newer than the host needs newer keys", r.opts.keys().pkg)
	}
	err = fmt.Errorf("cannot use the archives of %s: %w\n%w", r.opts.Suite, cause, err) // the second line is as long as apt likes
	if next == "" {
		return err
	}
	return hint.Add(err, "%s", next)
}

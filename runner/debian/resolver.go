// This file runs the host's apt with a configuration of its own, and reads the
// indexes that apt has verified.

package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

type keyring struct{ file, pkg string }

// keyrings has the keyring of each distribution, and the package of Debian that
// installs it.
var keyrings = map[string]keyring{
	"":     {"/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"},
	Ubuntu: {"/usr/share/keyrings/ubuntu-archive-keyring.gpg", "ubuntu-archive-keyring"},
}

// ResolverOptions describe the archives that a [Resolver] asks.
type ResolverOptions struct {
	Dir      string // the directory of all of apt's files; created if it is missing
	Archives []Archive
	Suite    string
	Ubuntu   bool      // the archives are those of Ubuntu
	Arch     string    // dpkg's name
	Keyrings []string  // files with the keys that may sign, armored ones named *.asc; empty means the distribution's, as installed on the host
	Log      io.Writer // gets apt's errors and warnings; may be nil
}

// keys returns the keyring of the distribution.
func (o ResolverOptions) keys() keyring {
	if o.Ubuntu {
		return keyrings[Ubuntu]
	}
	return keyrings[""]
}

// Resolver answers which packages of the archives make a system. It runs the host's
// apt with a configuration, a state and trusted keys of its own. From the host's
// configuration it takes only how to reach a network, and whether an archive may
// be out of date. It never uses an archive whose signature is missing or wrong.
type Resolver struct {
	opts    ResolverOptions
	indexes []Index
	date    time.Time
	base    []Package // set by the first call of Base
}

// OpenResolver fetches and verifies the indexes of all the archives.
func OpenResolver(ctx context.Context, o ResolverOptions) (*Resolver, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	keys := o.keys()
	if len(o.Keyrings) == 0 {
		o.Keyrings = []string{keys.file}
	}
	for _, k := range o.Keyrings {
		if _, err := os.Stat(k); err != nil {
			return nil, hint.Add(fmt.Errorf("the keys of the archive: %w", err), "on Debian: `apt install %s`; or name a keyring in the manifest's `keys`", keys.pkg)
		}
	}
	if !validArch(o.Arch) || !validSuite(o.Suite) || len(o.Archives) == 0 || strings.ContainsAny(strings.Join(o.Keyrings, ""), " \t\n,") {
		return nil, fmt.Errorf("resolver: invalid architecture %q, suite %q or keyring in %q, or no archive", o.Arch, o.Suite, o.Keyrings)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, "\"\n\\") {
		return nil, fmt.Errorf("resolver: apt cannot work in a directory named %q", dir)
	}
	o.Dir = dir
	r := &Resolver{opts: o}
	if err := r.configure(ctx); err != nil {
		return nil, err
	}
	if _, err := r.apt(ctx, "apt-get", "update", "-o", "APT::Update::Error-Mode=any"); err != nil {
		return nil, r.explainUpdate(err)
	}
	return r, r.readIndexes(ctx)
}

// Date returns the date of the newest index.
func (r *Resolver) Date() time.Time { return r.date }

// Indexes returns the signed indexes from which all answers come.
func (r *Resolver) Indexes() []Index { return slices.Clone(r.indexes) }

// configure writes apt's configuration and creates apt's directories.
func (r *Resolver) configure(ctx context.Context) error {
	dir := r.opts.Dir
	for _, d := range []string{"etc/sources.d", "etc/empty", "lists/partial", "cache/archives/partial", "log", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky); err != nil {
		return err
	}
	var sources strings.Builder
	for _, a := range r.opts.Archives {
		if err := a.check(); err != nil {
			return err
		}
		fmt.Fprintf(&sources, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nArchitectures: %s\nSigned-By: %s\n\n",
			a.URL, strings.Join(a.Suites, " "), strings.Join(a.Components, " "), r.opts.Arch, strings.Join(r.opts.Keyrings, ","))
	}
	transport, err := hostTransport(ctx)
	if err != nil {
		return err
	}
	for name, content := range map[string]string{
		"etc/sources.d/archives.sources": sources.String(),
		"apt.conf":                       aptConf(dir, r.opts.Arch, sandboxUser(dir), transport),
		"status":                         "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readIndexes reads the digest and the date of each signed index. It returns an
// error if a suite has no index.
func (r *Resolver) readIndexes(ctx context.Context) error {
	out, err := r.apt(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(FILENAME)", "Created-By: Packages")
	if err != nil {
		return err
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if len(f) != 4 {
			continue
		}
		stem, _, ok := strings.Cut(f[3], "_"+f[2]+"_binary-"+r.opts.Arch+"_Packages")
		if ok {
			files[strings.TrimRight(f[0], "/")+" "+strings.TrimRight(f[1], "/")] = stem
		}
	}
	for _, a := range r.opts.Archives {
		for _, suite := range a.Suites {
			stem, ok := files[a.asAptSays()+" "+suite]
			if !ok {
				return fmt.Errorf("archive %s: suite %s has no packages for %s", a.URL, suite, r.opts.Arch)
			}
			data, err := os.ReadFile(stem + "_InRelease")
			if errors.Is(err, os.ErrNotExist) {
				data, err = os.ReadFile(stem + "_Release") // with a detached signature
			}
			if err != nil {
				return fmt.Errorf("archive %s: suite %s: %w", a.URL, suite, err)
			}
			date, err := releaseDate(data)
			if err != nil {
				return fmt.Errorf("archive %s: suite %s: %w", a.URL, suite, err)
			}
			if date.After(r.date) {
				r.date = date
			}
			sum := sha256.Sum256(data)
			r.indexes = append(r.indexes, Index{Archive: a.Name, Suite: suite, SHA256: hex.EncodeToString(sum[:])})
		}
	}
	return nil
}

func releaseDate(release []byte) (time.Time, error) {
	lines := bufio.NewScanner(bytes.NewReader(release))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		v, ok := strings.CutPrefix(lines.Text(), "Date:")
		if !ok {
			continue
		}
		t, err := time.Parse("Mon, 2 Jan 2006 15:04:05 MST", strings.TrimSpace(v))
		if err != nil {
			return t, fmt.Errorf("read the date of the index: %w", err)
		}
		return t.UTC(), nil
	}
	return time.Time{}, errors.New("the index has no date")
}

// apt runs one of apt's programs with the resolver's configuration. The error
// is an *aptError if it ran and failed.
func (r *Resolver) apt(ctx context.Context, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = r.opts.Dir
	cmd.Env = aptEnv("APT_CONFIG="+filepath.Join(r.opts.Dir, "apt.conf"), "TMPDIR="+filepath.Join(r.opts.Dir, "tmp"))
	cmd.WaitDelay = 5 * time.Second
	// The program must not outlive a killed meros. The kernel sends the signal
	// when the thread that forked ends, which may be before the process ends.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, io.MultiWriter(&stderr, r.opts.Log)
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, hint.Add(fmt.Errorf("%s, which decides which packages make a system, is not installed", argv[0]),
			"Debian and Ubuntu always have it; on another host, build from a lock that was made on one of them")
	}
	return nil, &aptError{argv: argv, err: err, stderr: stderr.String()}
}

// aptEnv returns the environment of all programs of apt. From the environment of
// meros it has only the paths of programs and the ways to reach a network.
func aptEnv(more ...string) []string {
	env := append([]string{"LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}, more...)
	for _, name := range []string{"PATH", "HOME", "http_proxy", "https_proxy", "no_proxy", "all_proxy"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

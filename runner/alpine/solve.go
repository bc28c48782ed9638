// This file runs the apk of a system: to find out which packages it would install,
// and to install them.

package alpine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"meros/runner/hint"
)

// Run runs a program with the system's tree as its root directory, without a
// network. It writes the program's output and errors to out.
type Run func(ctx context.Context, argv []string, mounts []Mount, out io.Writer) error

// Mount is a file or directory of the host that the program can use.
type Mount struct {
	Source, Target string
	Writable       bool
}

// repositoryDir is the directory in which apk finds repositories.
const repositoryDir = "/tmp/meros-repo"

// Solve asks the apk of a system which packages it would install for the names,
// dependencies included. It returns them as "NAME VERSION" in the order of apk.
// repositories maps each repository to a directory with its signed index below
// ARCH. keys maps the names of further keys to their files.
func Solve(ctx context.Context, run Run, repositories map[string]string, keys map[string]string, names []string) ([]string, error) {
	argv := []string{"apk", "add", "--simulate", "--no-network", "--no-cache", "--no-progress", "--repositories-file", "/dev/null"}
	var mounts []Mount
	for name, dir := range repositories {
		mounts = append(mounts, Mount{Source: dir, Target: path.Join(repositoryDir, name)})
	}
	for _, name := range slices.Sorted(maps.Keys(repositories)) {
		argv = append(argv, "--repository", path.Join(repositoryDir, name))
	}
	for name, file := range keys {
		mounts = append(mounts, Mount{Source: file, Target: path.Join("/etc/apk/keys", name)})
	}
	var out strings.Builder
	if err := run(ctx, append(append(argv, "--"), names...), mounts, &out); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &SolveError{Text: complaint(out.String()), Missing: missing(out.String()), Err: err}
	}
	return Simulated(out.String())
}

// SolveError means that apk cannot install a set of packages.
type SolveError struct {
	Text    string   // apk's explanation, one line
	Missing []string // names that no repository has
	Err     error
}

// Error returns apk's exit status and explanation.
func (e *SolveError) Error() string { return fmt.Sprintf("apk: %v: %s", e.Err, e.Text) }

// Unwrap returns the error of the run.
func (e *SolveError) Unwrap() error { return e.Err }

// complaint returns apk's output without its heading, as one line.
func complaint(text string) string {
	var lines []string
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "WARNING") && l != "ERROR: unable to select packages:" {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, " ")
}

var noSuchPackage = regexp.MustCompile(`(?m)^\s*(\S+) \(no such package\):`)

func missing(text string) (names []string) {
	for _, m := range noSuchPackage.FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

var simulated = regexp.MustCompile(`^\(\s*\d+/\d+\) (Installing|Upgrading|Downgrading|Replacing|Reinstalling|Purging) (\S+) \((?:\S+ -> )?(\S+)\)`)

// Simulated parses the output of "apk add --simulate". It returns "NAME VERSION" of
// each package that apk would install, in the order of apk.
func Simulated(text string) ([]string, error) {
	var all []string
	for l := range strings.Lines(text) {
		m := simulated.FindStringSubmatch(strings.TrimSpace(l))
		switch {
		case m == nil:
		case m[1] == "Purging":
			return nil, hint.Add(fmt.Errorf("apk would remove %s %s, which is part of the system", m[2], m[3]), "a package in the manifest conflicts with it")
		default:
			all = append(all, m[2]+" "+m[3])
		}
	}
	return all, nil
}

// Install installs packages in a system by its own apk, from these files alone and
// without a network. apk adds the names to /etc/apk/world.
func Install(ctx context.Context, run Run, root, work string, apks, names []string, log io.Writer) error {
	dir := filepath.Join(work, "repository")
	arch, err := os.ReadFile(filepath.Join(root, "etc/apk/arch"))
	if err != nil {
		return fmt.Errorf("read the architecture of the system: %w", err)
	}
	word := strings.TrimSpace(string(arch))
	if !packageName.MatchString(word) {
		return fmt.Errorf("etc/apk/arch: %q cannot be an architecture", word)
	}
	sub := filepath.Join(dir, word)
	if err := os.MkdirAll(sub, 0o755); err != nil {
		return err
	}
	var inner []string
	for i, a := range apks {
		// The path a does not have the package's name. apk finds packages by an
		// index, and apk index reads their names from their content.
		b, err := os.ReadFile(a)
		if err != nil {
			return err
		}
		name, err := fileOf(b)
		if err != nil {
			return fmt.Errorf("package %d: %w", i+1, err)
		}
		if err := os.WriteFile(filepath.Join(sub, name), b, 0o644); err != nil {
			return err
		}
		inner = append(inner, path.Join(repositoryDir, word, name))
	}
	index := filepath.Join(work, "index")
	if err := os.Mkdir(index, 0o755); err != nil {
		return err
	}
	repository := Mount{Source: dir, Target: repositoryDir}
	mounts := []Mount{repository, {index, repositoryDir + ".index", true}}
	argv := append([]string{"apk", "index", "--allow-untrusted", "--no-warnings", "--output", repositoryDir + ".index/APKINDEX.tar.gz"}, inner...)
	if err := run(ctx, argv, mounts, log); err != nil {
		return fmt.Errorf("apk index: %w", err)
	}
	if err := os.Rename(filepath.Join(index, "APKINDEX.tar.gz"), filepath.Join(sub, "APKINDEX.tar.gz")); err != nil {
		return err
	}
	// --allow-untrusted is safe: each file had its pinned digest.
	argv = append([]string{"apk", "add", "--allow-untrusted", "--no-network", "--no-cache", "--no-progress", "--repositories-file", "/dev/null", "--repository", repositoryDir, "--"}, names...)
	if err := run(ctx, argv, []Mount{repository}, log); err != nil {
		return fmt.Errorf("apk add: %w", err)
	}
	return nil
}

// fileOf returns the name of a package's file in a repository.
func fileOf(file []byte) (string, error) {
	control, _, err := segments(file)
	if err != nil {
		return "", err
	}
	info, err := pkgInfo(control)
	if err != nil {
		return "", err
	}
	p := Package{Name: info["pkgname"], Version: info["pkgver"]}
	if !packageName.MatchString(p.Name) || !packageVersion.MatchString(p.Version) {
		return "", errors.New("its name or version in .PKGINFO is damaged")
	}
	return p.File(), nil
}

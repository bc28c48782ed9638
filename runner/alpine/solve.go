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
)

// Run runs a program in the system's root, without a network, and writes what
// it prints to out.
type Run func(ctx context.Context, argv []string, mounts []Mount, out io.Writer) error

// Mount is a file or directory that the program sees.
type Mount struct {
	Source, Target string
	Writable       bool
}

// repositoryDir is where apk finds repositories.
const repositoryDir = "/tmp/meros-repo"

// Solve asks the apk of a system which packages it would install, with all that
// they need, from the repositories: for each a directory with its signed index
// below ARCH. keys are files of keys beyond those of the system.
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

// SolveError is a set of packages that cannot be installed together.
type SolveError struct {
	Text    string
	Missing []string // names that no repository has
	Err     error
}

func (e *SolveError) Error() string { return fmt.Sprintf("apk: %v: %s", e.Err, e.Text) }

func (e *SolveError) Unwrap() error { return e.Err }

// complaint is what apk says, without its heading, as one line.
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

// Simulated reads what "apk add --simulate" prints: NAME VERSION of each
// package that is to be installed, in the order of apk.
func Simulated(text string) ([]string, error) {
	var all []string
	for l := range strings.Lines(text) {
		m := simulated.FindStringSubmatch(strings.TrimSpace(l))
		switch {
		case m == nil:
		case m[1] == "Purging":
			return nil, fmt.Errorf("apk would remove %s %s, which is part of the system (a package of the manifest conflicts with it)", m[2], m[3])
		default:
			all = append(all, m[2]+" "+m[3])
		}
	}
	return all, nil
}

// Install installs packages in a system by its own apk, without a network and
// from these files alone. Its /etc/apk/world gets the names.
func Install(ctx context.Context, run Run, root, work string, apks, names []string, log io.Writer) error {
	dir := filepath.Join(work, "repository")
	arch, err := os.ReadFile(filepath.Join(root, "etc/apk/arch"))
	if err != nil {
		return fmt.Errorf("the architecture of its apk: %w", err)
	}
	word := strings.TrimSpace(string(arch))
	if !packageName.MatchString(word) {
		return fmt.Errorf("the architecture of its apk is %q", word)
	}
	sub := filepath.Join(dir, word)
	if err := os.MkdirAll(sub, 0o755); err != nil {
		return err
	}
	var inside []string
	for i, a := range apks {
		// The file's own name is not known here: apk finds packages by their
		// index, which is made of what is in them.
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
		inside = append(inside, path.Join(repositoryDir, word, name))
	}
	index := filepath.Join(work, "index")
	if err := os.Mkdir(index, 0o755); err != nil {
		return err
	}
	repository := Mount{Source: dir, Target: repositoryDir}
	mounts := []Mount{repository, {index, repositoryDir + ".index", true}}
	argv := append([]string{"apk", "index", "--allow-untrusted", "--no-warnings", "--output", repositoryDir + ".index/APKINDEX.tar.gz"}, inside...)
	if err := run(ctx, argv, mounts, log); err != nil {
		return fmt.Errorf("apk index: %w", err)
	}
	if err := os.Rename(filepath.Join(index, "APKINDEX.tar.gz"), filepath.Join(sub, "APKINDEX.tar.gz")); err != nil {
		return err
	}
	// What is installed was checked against its pinned digest.
	argv = append([]string{"apk", "add", "--allow-untrusted", "--no-network", "--no-cache", "--no-progress", "--repositories-file", "/dev/null", "--repository", repositoryDir, "--"}, names...)
	if err := run(ctx, argv, []Mount{repository}, log); err != nil {
		return fmt.Errorf("apk add: %w", err)
	}
	return nil
}

// fileOf is the name that a package's file has in a repository.
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
		return "", errors.New("its name or version is damaged")
	}
	return p.File(), nil
}

// This file pins the sources of kernels: the commit of a git repository, and
// the key that must have signed a tarball.

package pin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"meros/constellations"
	"meros/runner/hint"
	"meros/stages"
)

var commitID = regexp.MustCompile(`^[0-9a-f]{40}([0-9a-f]{24})?$`)

// remoteCommit asks a repository for the commit of a branch or a tag. A ref that
// is a commit already it returns as it is.
func remoteCommit(ctx context.Context, repository, ref string) (string, error) {
	if commitID.MatchString(ref) {
		return ref, nil
	}
	cmd := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "ls-remote", "--quiet", "--", repository)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", hint.Add(errors.New("git is not installed"), "on Debian: `apt install git`")
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		return "", fmt.Errorf("git ls-remote %s: %w: %s", repository, err, strings.TrimSpace(stderr.String()))
	}
	return pickRef(string(out), repository, ref)
}

// pickRef finds ref in the output of git ls-remote. It prefers a branch, then
// the commit that a tag points to, then the full name of a ref.
func pickRef(list, repository, ref string) (string, error) {
	commits := make(map[string]string)
	var names []string
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) != 2 || !commitID.MatchString(f[0]) {
			continue
		}
		commits[f[1]] = f[0]
		for _, kind := range []string{"refs/heads/", "refs/tags/"} {
			if n, ok := strings.CutPrefix(f[1], kind); ok && !strings.HasSuffix(n, "^{}") {
				names = append(names, n)
			}
		}
	}
	for _, name := range []string{"refs/heads/" + ref, "refs/tags/" + ref + "^{}", "refs/tags/" + ref, ref} {
		if c, ok := commits[name]; ok {
			return c, nil
		}
	}
	err := fmt.Errorf("%s has no branch or tag %q", repository, ref)
	if near := constellations.Nearest(ref, names); near != "" {
		return "", hint.Add(err, "did you mean %q?", near)
	}
	if len(names) == 0 {
		return "", fmt.Errorf("%w: it has no branches and no tags", err)
	}
	slices.Sort(names)
	return "", hint.Add(err, "the repository has: %s", strings.Join(names[:min(len(names), 10)], ", "))
}

// tarballKey returns the keyring that the manifest names for a tarball, or "".
func (p *Pinner) tarballKey(m *constellations.Manifest, location string) (string, error) {
	for _, vm := range m.Machines {
		if vm.Kernel.Location == location && vm.Kernel.Key != "" {
			return stages.Find(p.Root, m, "key", vm.Kernel.Key)
		}
	}
	return "", nil
}

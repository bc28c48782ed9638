// This file finds the credentials of a registry where docker, podman and skopeo store
// them. It never repeats a credential in an error.

package oci

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"meros/runner/hint"
)

// logins finds the files in which docker, podman and skopeo store credentials:
// containers-auth.json(5) and "docker login".
type logins struct {
	getenv func(string) string
	uid    string // of the user outside of any namespace
}

// login holds the credentials of a registry.
type login struct {
	auth     authn.Authenticator
	from     string  // the file with the credentials, or ""
	problems []error // files and helpers that failed
}

// dockerHub is the name of Docker's own registry in its credential files. hubAlias is
// the name that podman and people use.
const (
	dockerHub = authn.DefaultAuthKey
	hubAlias  = "docker.io"
)

// files returns the files to read, in podman's order.
func (l logins) files() []string {
	home := l.getenv("HOME")
	below := func(dir string, name ...string) string {
		if dir == "" {
			return ""
		}
		return filepath.Join(append([]string{dir}, name...)...)
	}
	runtime := below(l.getenv("XDG_RUNTIME_DIR"), "containers")
	if runtime == "" {
		runtime = below("/run/containers", l.uid)
	}
	all := []string{
		l.getenv("REGISTRY_AUTH_FILE"),
		below(runtime, "auth.json"),
		below(cmp.Or(l.getenv("XDG_CONFIG_HOME"), below(home, ".config")), "containers", "auth.json"),
		below(cmp.Or(l.getenv("DOCKER_CONFIG"), below(home, ".docker")), "config.json"),
	}
	return slices.DeleteFunc(all, func(f string) bool { return f == "" })
}

// find searches the files, in podman's order. It only records failures: an image of a
// public registry needs no credentials.
func (l logins) find(of name.Repository) login {
	none := login{auth: authn.Anonymous}
	for _, file := range l.files() {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		config := configfile.New("")
		if err == nil {
			err = config.LoadFromReader(f)
			f.Close()
		}
		var known types.AuthConfig
		if err == nil {
			known, err = inFile(config, of)
		}
		if err != nil {
			none.problems = append(none.problems, fmt.Errorf("%s: %w", file, err))
		}
		if usable(known) {
			return login{from: file, auth: authn.FromConfig(authn.AuthConfig{
				Username: known.Username, Password: known.Password, IdentityToken: known.IdentityToken, RegistryToken: known.RegistryToken,
			})}
		}
	}
	return none
}

// usable reports whether c holds any credentials.
func usable(c types.AuthConfig) bool {
	return c.Username != "" || c.IdentityToken != "" || c.RegistryToken != ""
}

// inFile returns the credentials of a repository in a file. It asks the helper first,
// then looks for parts of the repository's name, the longest first. Last it looks for a
// URL of the host, as old versions of docker wrote.
func inFile(config *configfile.ConfigFile, of name.Repository) (types.AuthConfig, error) {
	host := of.RegistryStr()
	server, path := host, host+"/"+of.RepositoryStr()
	if host == name.DefaultRegistry {
		server, path = dockerHub, hubAlias+"/"+of.RepositoryStr()
	}
	known, err := askHelper(config, host, server)
	if usable(known) {
		return known, nil
	}
	for i := len(path); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if known = config.AuthConfigs[path[:i]]; usable(known) {
			return known, nil
		}
	}
	for _, key := range slices.Sorted(maps.Keys(config.AuthConfigs)) {
		whole := key == host || strings.Contains(key, "://") && credentials.ConvertToHostname(key) == host
		if known = config.AuthConfigs[key]; whole && usable(known) {
			return known, nil
		}
	}
	return types.AuthConfig{}, err
}

// askHelper asks the credential helper of a registry, if the file names one.
func askHelper(config *configfile.ConfigFile, host, server string) (types.AuthConfig, error) {
	helper := config.CredentialsStore
	for _, key := range []string{hubAlias, host, server} {
		if h := config.CredentialHelpers[key]; h != "" && (key != hubAlias || server == dockerHub) {
			helper = h
		}
	}
	if helper == "" {
		return types.AuthConfig{}, nil
	}
	program := "docker-credential-" + helper
	if _, err := exec.LookPath(program); err != nil {
		return types.AuthConfig{}, fmt.Errorf("credential helper: %w", err)
	}
	known, err := credentials.NewNativeStore(config, helper).Get(server)
	if err != nil {
		// The helper's own message is dropped: it may contain a secret.
		return known, hint.Add(fmt.Errorf("credential helper %s failed", program), "see why with `echo %s | %s get`", server, program)
	}
	return known, nil
}

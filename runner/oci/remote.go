// This file asks registries for images and layers.

package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"meros/runner/hint"
)

// RemoteLayer is a layer in a registry.
type RemoteLayer struct {
	SHA256 string // of the compressed layer, in hexadecimal
	Size   int64  // of the compressed layer, bytes
	DiffID string // SHA-256 of the uncompressed layer, in hexadecimal
}

// Registries fetches images from registries, with the credentials that docker, podman
// or skopeo store for this user.
type Registries struct {
	logins logins
	puller *remote.Puller // asks for one token, however many layers there are
}

// NewRegistries returns a client that finds credentials through the environment. uid is
// the user's id outside of any namespace. It reads credentials only when it needs them.
func NewRegistries(getenv func(string) string, uid string) (*Registries, error) {
	r := &Registries{logins: logins{getenv, uid}}
	var err error
	r.puller, err = remote.NewPuller(r.options()...)
	return r, err
}

func (r *Registries) options() []remote.Option {
	return []remote.Option{remote.WithAuthFromKeychain(r), remote.WithTransport(onlyTLS{remote.DefaultTransport})}
}

// Resolve implements the library's keychain.
func (r *Registries) Resolve(of authn.Resource) (authn.Authenticator, error) {
	repository, ok := of.(name.Repository)
	if !ok {
		return authn.Anonymous, nil
	}
	return r.logins.find(repository).auth, nil
}

// Image asks a registry for the current image of a reference, such as debian:12. arch is
// the architecture by Go's name. manifest is the digest, in hexadecimal, of the manifest
// that Image read.
func (r *Registries) Image(ctx context.Context, reference, arch string) (manifest string, layers []RemoteLayer, err error) {
	ref, err := parse(reference)
	if err != nil {
		return "", nil, err
	}
	platform := v1.Platform{OS: "linux", Architecture: arch}
	if arch == "arm" {
		platform.Variant = armVariant
	}
	im, err := remote.Image(ref, append(r.options(), remote.WithContext(ctx), remote.WithPlatform(platform))...)
	if err != nil {
		return "", nil, r.explain(ref, err)
	}
	digest, err := im.Digest()
	if err != nil {
		return "", nil, err
	}
	m, err := im.Manifest()
	if err != nil {
		return "", nil, err
	}
	config, err := im.ConfigFile()
	if err != nil {
		return "", nil, r.explain(ref, err)
	}
	layers, err = remoteLayers(m, config, arch)
	return digest.Hex, layers, err
}

// remoteLayers returns the layers that a manifest and its configuration describe.
func remoteLayers(m *v1.Manifest, config *v1.ConfigFile, arch string) (layers []RemoteLayer, err error) {
	switch {
	case config.Architecture != "" && config.Architecture != arch:
		return nil, fmt.Errorf("an image for %s, not for %s", config.Architecture, arch)
	case len(m.Layers) != len(config.RootFS.DiffIDs) || len(m.Layers) > maxLayers:
		return nil, fmt.Errorf("%d layers, but the configuration describes %d (the maximum is %d)", len(m.Layers), len(config.RootFS.DiffIDs), maxLayers)
	case len(m.Layers) == 0:
		return nil, errors.New("no layers")
	}
	for i, l := range m.Layers {
		if !l.MediaType.IsDistributable() || l.MediaType != types.OCILayerZStd && !l.MediaType.IsLayer() || l.Digest.Algorithm != "sha256" || config.RootFS.DiffIDs[i].Algorithm != "sha256" {
			return nil, fmt.Errorf("layer %d: not a layer of a file system: %s", i+1, l.MediaType)
		}
		layers = append(layers, RemoteLayer{l.Digest.Hex, l.Size, config.RootFS.DiffIDs[i].Hex})
	}
	return layers, nil
}

// Layer opens a layer in the registry of the reference. Reading it to the end fails if
// its digest differs.
func (r *Registries) Layer(ctx context.Context, reference, sha256 string) (io.ReadCloser, error) {
	ref, err := parse(reference)
	if err != nil {
		return nil, err
	}
	l, err := r.puller.Layer(ctx, ref.Context().Digest("sha256:"+sha256))
	if err != nil {
		return nil, r.explain(ref, err)
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, r.explain(ref, err)
	}
	return body, nil
}

// explain adds the next step to an error if the registry refused the credentials, or
// asked for some.
func (r *Registries) explain(ref name.Reference, err error) error {
	refused := (*transport.Error)(nil)
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized && refused.StatusCode != http.StatusForbidden {
		return err
	}
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = hubAlias
	}
	login := fmt.Sprintf("log in with `docker login %[1]s` or `podman login %[1]s`", host)
	known := r.logins.find(ref.Context())
	if known.from != "" {
		return hint.Add(fmt.Errorf("%s has no such image, or not for the credentials in %s: %w", host, known.from, err), "%s", login)
	}
	err = fmt.Errorf("%s has no such image, or requires a login, and no credentials are known: %w", host, err)
	for _, p := range slices.Backward(known.problems) {
		if next := hint.Of(p); next != "" {
			err = hint.Add(err, "%s", next)
		}
		err = hint.Add(err, "no credentials from %v", p)
	}
	return hint.Add(err, "%s", login)
}

// parse reads a reference. Only registries on this host are asked without TLS, as in
// docker.
func parse(reference string) (name.Reference, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	host := ref.Context().RegistryStr()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if onLoopback(host) {
		return name.ParseReference(reference, name.Insecure)
	}
	return ref, nil
}

// onLoopback reports whether a host name or address is this host.
func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// onlyTLS prevents the library from asking servers of private networks without TLS, and
// from following a redirect to them.
type onlyTLS struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !onLoopback(r.URL.Hostname()) {
		return nil, errors.New("only registries on this host are asked without TLS")
	}
	return t.RoundTripper.RoundTrip(r)
}

package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// RemoteLayer is a layer in a registry.
type RemoteLayer struct {
	SHA256 string // of the layer as it is there, in hexadecimal
	Size   int64  // bytes
	DiffID string // SHA-256 of what it is uncompressed
}

// Registries are asked for images, with the credentials that docker, podman or
// skopeo keep for this user.
type Registries struct {
	logins logins
	puller *remote.Puller // asks for one token, however many layers there are
}

// NewRegistries looks for credentials where the environment says; uid is the
// user's outside of any namespace. They are looked for when a registry is asked.
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

// Image asks a registry which image a reference, such as debian:12, is now, for
// machines of an architecture as Go names it. The digests that it gives are
// those of what was read.
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

func remoteLayers(m *v1.Manifest, config *v1.ConfigFile, arch string) (layers []RemoteLayer, err error) {
	switch {
	case config.Architecture != "" && config.Architecture != arch:
		return nil, fmt.Errorf("it is of %s, not of %s", config.Architecture, arch)
	case len(m.Layers) != len(config.RootFS.DiffIDs) || len(m.Layers) > maxLayers:
		return nil, fmt.Errorf("it has %d layers and says of %d what they are (at most %d are possible)", len(m.Layers), len(config.RootFS.DiffIDs), maxLayers)
	case len(m.Layers) == 0:
		return nil, errors.New("it has no layers")
	}
	for i, l := range m.Layers {
		if !l.MediaType.IsDistributable() || l.MediaType != types.OCILayerZStd && !l.MediaType.IsLayer() || l.Digest.Algorithm != "sha256" || config.RootFS.DiffIDs[i].Algorithm != "sha256" {
			return nil, fmt.Errorf("layer %d is a %s, which is no layer of a file system", i+1, l.MediaType)
		}
		layers = append(layers, RemoteLayer{l.Digest.Hex, l.Size, config.RootFS.DiffIDs[i].Hex})
	}
	return layers, nil
}

// Layer opens a layer as the registry of the reference has it. Reading it to
// the end fails if it has another digest.
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

// explain says what to do where a registry wants to know who asks.
func (r *Registries) explain(ref name.Reference, err error) error {
	refused := (*transport.Error)(nil)
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusUnauthorized && refused.StatusCode != http.StatusForbidden {
		return err
	}
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = hubAlias
	}
	hint := fmt.Sprintf("docker login %[1]s or podman login %[1]s", host)
	known := r.logins.find(ref.Context())
	if known.from != "" {
		return fmt.Errorf("%w (%s has no such image, or not for the credentials in %s: %s)", err, host, known.from, hint)
	}
	for _, p := range known.problems {
		hint += "; " + p.Error()
	}
	return fmt.Errorf("%w (%s has no such image, or wants a login, and none is known: %s)", err, host, hint)
}

// parse reads a reference. Only what is on this host itself is asked without
// TLS, as docker does it.
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

func onLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// onlyTLS keeps the library from asking servers of private networks without
// TLS, and from being sent there.
type onlyTLS struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t onlyTLS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !onLoopback(r.URL.Hostname()) {
		return nil, errors.New("without TLS only registries on this host itself are asked")
	}
	return t.RoundTripper.RoundTrip(r)
}

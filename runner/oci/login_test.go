// This file tests that credentials are found, used and never shown.

package oci

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"meros/runner/hint"
)

const (
	user     = "eve"
	password = "s3cret:with-colon"
	token    = "t0ken-of-the-realm"
)

// guarded starts a registry that requires a login, with an image HOST/lab/box:v1. If
// bearer is set, another server issues tokens for it.
func guarded(t *testing.T, bearer bool) (host string) {
	t.Helper()
	open := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	realm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"no such user"}]}`, http.StatusUnauthorized)
			return
		}
		if scope := r.FormValue("scope"); scope != "repository:lab/box:pull" || r.FormValue("service") != "lab" {
			t.Errorf("a token was asked for %q", r.URL.RawQuery)
		}
		fmt.Fprintf(w, `{"token":%q}`, token)
	}))
	t.Cleanup(realm.Close)
	challenge := `Basic realm="lab"`
	if bearer {
		challenge = `Bearer realm="` + strings.Replace(realm.URL, "127.0.0.1", "localhost", 1) + `/token",service="lab",scope="repository:lab/box:pull"`
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if bearer && r.Header.Get("Authorization") != "Bearer "+token || !bearer && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", challenge)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	unguarded := httptest.NewServer(open)
	defer unguarded.Close()
	ref, err := name.NewTag(strings.TrimPrefix(unguarded.URL, "http://") + "/lab/box:v1")
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	return host
}

func auths(host, user, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// environ returns an environment whose files are in a new directory.
func environ(t *testing.T, files map[string]string) func(string) string {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		file = filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"HOME": "home", "XDG_RUNTIME_DIR": "run", "REGISTRY_AUTH_FILE": "named.json"}
	if files["docker/config.json"] != "" {
		env["DOCKER_CONFIG"] = "docker"
	}
	return func(name string) string {
		if v, ok := env[name]; ok {
			return filepath.Join(dir, v)
		}
		return ""
	}
}

// fetchAll asks for the image and reads all its layers.
func fetchAll(r *Registries, host string) error {
	ctx := context.Background()
	_, layers, err := r.Image(ctx, host+"/lab/box:v1", "amd64")
	for _, l := range layers {
		body, err := r.Layer(ctx, host+"/lab/box:v1", l.SHA256)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, body)
		body.Close()
		if err != nil || n != l.Size {
			return fmt.Errorf("read %d of %d bytes: %w", n, l.Size, err)
		}
	}
	return err
}

// A registry that requires a login gets the credentials, whichever program stored them.
func TestLogin(t *testing.T) {
	helpers := t.TempDir()
	t.Setenv("PATH", helpers+":"+os.Getenv("PATH"))
	for name, script := range map[string]string{
		"lab":  "read host; echo \"$1 $host\" >> " + helpers + "/asked\n" + `echo '{"Username":"` + user + `","Secret":"` + password + `"}'`,
		"none": "echo credentials not found in native keychain; exit 1",
		"sick": "echo '" + password + "'; exit 1",
	} {
		if err := os.WriteFile(filepath.Join(helpers, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"basic", "bearer"} {
		host := guarded(t, kind == "bearer")
		good := auths(host, user, password)
		for what, files := range map[string]map[string]string{
			"REGISTRY_AUTH_FILE": {"named.json": good, "home/.docker/config.json": auths(host, user, "older")},
			"podman":             {"run/containers/auth.json": good},
			"podman's, kept":     {"home/.config/containers/auth.json": good},
			"docker":             {"home/.docker/config.json": good},
			"DOCKER_CONFIG":      {"docker/config.json": good, "home/.docker/config.json": auths(host, user, "wrong")},
			"old docker":         {"home/.docker/config.json": auths("https://"+host+"/v1/", user, password)},
			"namespace":          {"run/containers/auth.json": auths(host+"/lab", user, password), "home/.docker/config.json": auths(host, user, "wrong")},
			"helper of host":     {"home/.docker/config.json": `{"auths":{"` + host + `":{}},"credHelpers":{"` + host + `":"lab"},"credsStore":"none"}`},
			"helper of all":      {"home/.docker/config.json": `{"credsStore":"lab"}`},
			"helper has none":    {"run/containers/auth.json": `{"credsStore":"none"}`, "home/.docker/config.json": good},
			"helper is sick":     {"run/containers/auth.json": `{"credsStore":"sick"}`, "home/.docker/config.json": good},
			"damaged":            {"run/containers/auth.json": `{"auths`, "home/.docker/config.json": good},
		} {
			t.Run(kind+" "+what, func(t *testing.T) {
				r, err := NewRegistries(environ(t, files), "1000")
				if err != nil {
					t.Fatal(err)
				}
				if err := fetchAll(r, host); err != nil {
					t.Error(err)
				}
			})
		}
		for what, bad := range map[string]struct {
			files map[string]string
			words []string
		}{
			"nobody":          {nil, []string{"requires a login, and no credentials are known", "docker login " + host, "podman login " + host}},
			"wrong password":  {map[string]string{"run/containers/auth.json": auths(host, user, "wr0ng")}, []string{"not for the credentials in ", "run/containers/auth.json", "podman login " + host}},
			"another host":    {map[string]string{"run/containers/auth.json": auths("localhost", user, password)}, []string{"no credentials are known"}},
			"sick helper":     {map[string]string{"home/.docker/config.json": `{"credsStore":"sick"}`}, []string{"docker-credential-sick failed", "echo " + host + " | docker-credential-sick get"}},
			"no helper":       {map[string]string{"home/.docker/config.json": `{"credsStore":"gone"}`}, []string{"docker-credential-gone"}},
			"damaged, secret": {map[string]string{"home/.docker/config.json": `{"auths":{"` + host + `":{"auth":"` + password + `"}}}`}, []string{"config.json: "}},
		} {
			t.Run(kind+" "+what, func(t *testing.T) {
				r, err := NewRegistries(environ(t, bad.files), "1000")
				if err != nil {
					t.Fatal(err)
				}
				err = fetchAll(r, host)
				if err == nil {
					t.Fatal("the registry lets it in")
				}
				text := err.Error() + "\n" + hint.Of(err)
				for _, w := range bad.words {
					if !strings.Contains(text, w) {
						t.Errorf("%s\nlacks %q", text, w)
					}
				}
				for _, secret := range []string{password, "wr0ng", token} {
					if strings.Contains(text, secret) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(user+":"+secret))) {
						t.Errorf("the error contains a secret: %s", text)
					}
				}
			})
		}
	}
	if asked, err := os.ReadFile(filepath.Join(helpers, "asked")); err != nil || !strings.Contains(string(asked), "get 127.0.0.1:") {
		t.Errorf("the helper was asked %q, %v", asked, err)
	}
}

// Credentials of Docker's own registry are found under each of its names.
func TestLoginHub(t *testing.T) {
	of, err := name.NewRepository("debian")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"https://index.docker.io/v1/", "docker.io", "index.docker.io", "docker.io/library", "docker.io/library/debian"} {
		l := logins{environ(t, map[string]string{"home/.docker/config.json": auths(key, user, password)}), "0"}
		if found := l.find(of); found.from == "" {
			t.Errorf("%s is not found: %v", key, found.problems)
		}
	}
	l := logins{environ(t, map[string]string{"home/.docker/config.json": auths("docker.io/other", user, password)}), "0"}
	if found := l.find(of); found.from != "" {
		t.Error("another repository's credentials are used")
	}
}

// Only registries on this host are asked without TLS.
func TestNoTLS(t *testing.T) {
	for host, alone := range map[string]bool{"127.0.0.1:5000": true, "127.0.0.9:5000": true, "localhost:5000": true, "10.0.0.1:5000": false, "192.168.1.1": false, "lab.localhost.example:5000": false} {
		ref, err := parse(host + "/lab/box:v1")
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequest(http.MethodGet, "http://"+host+"/v2/", nil)
		_, err = onlyTLS{roundTrip(func(*http.Request) (*http.Response, error) { return new(http.Response), nil })}.RoundTrip(request)
		if (err == nil) != alone || alone && ref.Context().Scheme() != "http" {
			t.Errorf("%s: scheme %s, %v", host, ref.Context().Scheme(), err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

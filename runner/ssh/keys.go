// Package ssh is how meros and its user talk to a guest: keys, a client for
// meros itself, and the command line of the user's ssh(1).
package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// Key is an ed25519 key pair.
type Key struct {
	File   string // of the private half, OpenSSH's format
	signer ssh.Signer
}

// EnsureKey reads the key in file and makes it first if it is not there. The
// file is never readable for anyone but its owner, and never half-written.
func EnsureKey(file, comment string) (*Key, error) {
	k, err := readKey(file)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".new-*") // 0600
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	// Of two that make it at once, the first one's stays.
	if err := os.Link(tmp.Name(), file); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return readKey(file)
}

func readKey(file string) (*Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key %s can be read by others (chmod 600 it, or remove it to get a new one)", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w (remove it to get a new one)", file, err)
	}
	return &Key{file, signer}, nil
}

// Private is the content of the file.
func (k *Key) Private() ([]byte, error) { return os.ReadFile(k.File) }

// Public is the line of an authorized_keys file, sshd(8), with a newline.
func (k *Key) Public() []byte { return ssh.MarshalAuthorizedKey(k.signer.PublicKey()) }

// Package ssh connects to guests: it holds the keys, a client for meros itself,
// and the command line of the user's ssh(1). It does not know machines or groups.
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
	"golang.org/x/sys/unix"

	"meros/runner/hint"
)

// Key is an ed25519 key pair.
type Key struct {
	File   string // the private key, in OpenSSH's format
	signer ssh.Signer
}

// EnsureKey reads the key in file, and makes it first if the file is missing.
// Only its owner can read the file, and it is never half-written.
func EnsureKey(file, comment string) (*Key, error) {
	k, err := readKey(file)
	if !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	// Another process may have made the key first.
	if k, err := readKey(file); !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	unfinished := filepath.Join(dir, ".new-"+filepath.Base(file))
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, os.ErrNotExist) { // left by a killed process
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
	tmp, err := os.OpenFile(unfinished, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = tmp.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(unfinished))
	}
	if err := os.Rename(unfinished, file); err != nil {
		return nil, err
	}
	return readKey(file)
}

// lockDirectory waits for an flock(2) on the directory. Closing the returned file
// releases the lock.
func lockDirectory(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
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
		err := fmt.Errorf("key %s can be read by others", file)
		return nil, hint.Add(err, "`chmod 600 %s` protects it; remove it to get a new one", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("key %s: %w", file, err), "remove it to get a new one")
	}
	return &Key{file, signer}, nil
}

// Private returns the content of the private key's file.
func (k *Key) Private() ([]byte, error) { return os.ReadFile(k.File) }

// Public returns the key's line of an authorized_keys file, sshd(8), with a
// newline.
func (k *Key) Public() []byte { return ssh.MarshalAuthorizedKey(k.signer.PublicKey()) }

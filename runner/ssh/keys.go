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
	"golang.org/x/sys/unix"
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
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	// Of two that make it at once, the first one's stays.
	if k, err := readKey(file); !errors.Is(err, os.ErrNotExist) {
		return k, err
	}
	unfinished := filepath.Join(dir, ".new-"+filepath.Base(file))
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, os.ErrNotExist) { // a dead run's
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

// lockDirectory waits for an flock(2) on the directory, which ends with the file
// that is returned.
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

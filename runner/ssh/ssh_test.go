// This file tests keys, the client and the command lines of ssh(1).

package ssh

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"meros/bench/lab"
	"meros/runner/hint"
)

// Concurrent calls all get the same key, and only its owner can read it.
func TestEnsureKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys", "id")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), ".new-id"), []byte("left by a killed process"), 0o600); err != nil {
		t.Fatal(err)
	}
	publics := make([]string, 10)
	var wg sync.WaitGroup
	for i := range publics {
		wg.Go(func() {
			k, err := EnsureKey(file, "comment")
			if err != nil {
				t.Error(err)
				return
			}
			publics[i] = string(k.Public())
		})
	}
	wg.Wait()
	for _, p := range publics {
		if p != publics[0] || !strings.HasPrefix(p, "ssh-ed25519 ") {
			t.Errorf("%q and %q", p, publics[0])
		}
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("the directory holds %v", left)
	}
	if _, err := exec.LookPath("ssh-keygen"); err == nil {
		out, err := exec.Command("ssh-keygen", "-y", "-f", file).Output()
		if err != nil || strings.TrimSpace(string(out)) != strings.TrimSpace(publics[0])+" comment" {
			t.Errorf("ssh-keygen says %q, %v", out, err)
		}
	}
	os.Chmod(file, 0o644)
	if _, err := EnsureKey(file, ""); err == nil || !strings.Contains(err.Error(), "can be read by others") || !strings.Contains(hint.Of(err), "`chmod 600 "+file+"`") {
		t.Errorf("a key that everybody can read: %v, hint %q", err, hint.Of(err))
	}
	if err := os.WriteFile(file+"2", []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureKey(file+"2", ""); err == nil || hint.Of(err) != "remove it to get a new one" {
		t.Errorf("a damaged key: %v, hint %q", err, hint.Of(err))
	}
}

func newHost(t *testing.T) *Host {
	t.Helper()
	dir := t.TempDir()
	ours, err := EnsureKey(filepath.Join(dir, "ours"), "")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := EnsureKey(filepath.Join(dir, "theirs"), "")
	if err != nil {
		t.Fatal(err)
	}
	return &Host{Name: "m.lab", Address: "127.0.0.1:2222", User: "root", Key: ours, HostKey: theirs}
}

func TestArgv(t *testing.T) {
	h := newHost(t)
	for _, test := range []struct {
		command []string
		end     []string
	}{
		{nil, []string{"root@m.lab"}},
		{[]string{"echo $HOME | wc"}, []string{"root@m.lab", "--", "echo $HOME | wc"}},
		{[]string{"echo", "$HOME", "a'b"}, []string{"root@m.lab", "--", `echo '$HOME' 'a'\''b'`}},
	} {
		argv := h.Argv("/a path/known", []string{"/a b/meros", "nc", "100%"}, []string{"-A"}, test.command)
		all := strings.Join(argv, "\x00")
		if !strings.HasSuffix(all, strings.Join(test.end, "\x00")) || !strings.Contains(all, "\x00ProxyCommand='/a b/meros' nc 100%%\x00") {
			t.Errorf("%q", argv)
		}
	}
	// ssh(1) itself parses the options.
	lab.Need(t, "ssh")
	argv := h.Argv("/a path/known%hosts", []string{"meros"}, nil, nil)
	out, err := exec.Command("ssh", append([]string{"-G"}, argv[1:]...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"userknownhostsfile \"/a path/known%%hosts\"\n", "userknownhostsfile /a path/known%%hosts\n", "userknownhostsfile /a path/known%hosts\n"} {
		if strings.Contains(string(out), want) {
			return
		}
	}
	t.Errorf("ssh parses the options as\n%s", out)
}

// serve starts an ssh server with the host's key that accepts the client's. It
// answers every command with "hello". It returns the server's address.
func serve(t *testing.T, key *Key, client *Key) string {
	t.Helper()
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(ssh.MarshalAuthorizedKey(k)) != string(client.Public()) {
			return nil, errors.New("not this key")
		}
		return nil, nil
	}}
	config.AddHostKey(key.signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c, config)
		}
	}()
	return l.Addr().String()
}

func answer(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, reqs, err := n.Accept()
		if err != nil {
			return
		}
		for r := range reqs {
			r.Reply(true, nil)
			if r.Type != "exec" {
				continue
			}
			status := []byte{0, 0, 0, 0}
			if strings.Contains(string(r.Payload), "fail") {
				status[3] = 3
			}
			io.WriteString(ch, "hello\n")
			ch.SendRequest("exit-status", false, status)
			ch.Close()
		}
	}
}

// The client tries again if the server drops connections. The greeting on the
// connection that lasts is still to be read.
func TestDropped(t *testing.T) {
	h := newHost(t)
	inner := serve(t, h.HostKey, h.Key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var accepted atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if n := accepted.Add(1); n%3 == 1 {
				c.Close()
				continue
			} else if n%3 == 2 {
				time.Sleep(50 * time.Millisecond) // the client is connected by then
				c.(*net.TCPConn).SetLinger(0)     // closes by a reset
				c.Close()
				continue
			}
			go func() {
				defer c.Close()
				to, err := net.Dial("tcp", inner)
				if err != nil {
					return
				}
				defer to.Close()
				go io.Copy(to, c)
				io.Copy(c, to)
			}()
		}
	}()
	h.Address = l.Addr().String()
	if out, err := h.Run(t.Context(), "x"); string(out) != "hello\n" || err != nil || accepted.Load() != 3 {
		t.Errorf("%q, %v after %d connections", out, err, accepted.Load())
	}
	f, err := Greeted(t.Context(), func() (*os.File, error) {
		c, err := net.Dial("tcp", h.Address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		return c.(*net.TCPConn).File()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, 4)
	if _, err := io.ReadFull(f, line); err != nil || string(line) != "SSH-" || accepted.Load() != 6 {
		t.Errorf("%q, %v after %d connections", line, err, accepted.Load())
	}
}

func TestRun(t *testing.T) {
	h := newHost(t)
	h.Address = serve(t, h.HostKey, h.Key)
	if out, err := h.Run(t.Context(), "x"); string(out) != "hello\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if line, err := h.Banner(t.Context(), lab.Timeout(t, time.Minute)); !strings.HasPrefix(line, "SSH-2.0-") || err != nil {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := h.Run(t.Context(), "fail"); err == nil || !strings.Contains(err.Error(), "m.lab") {
		t.Errorf("%v", err)
	}
	// Another server, a client whose key is unknown, and a closed port.
	other := newHost(t)
	h.Address = serve(t, other.HostKey, h.Key)
	if _, err := h.Connect(t.Context()); !errors.Is(err, ErrHostKey) {
		t.Errorf("another machine's key: %v", err)
	}
	h.Address = serve(t, h.HostKey, other.Key)
	if _, err := h.Connect(t.Context()); err == nil || errors.Is(err, ErrHostKey) {
		t.Errorf("an unknown client key: %v", err)
	}
	h.Address = "127.0.0.1:1"
	if _, err := h.Connect(t.Context()); err == nil {
		t.Error("Connect succeeded on a closed port")
	}
}

// A forwarder that accepts and stays silent, and a server of another protocol.
func TestSilence(t *testing.T) {
	h := newHost(t)
	for _, says := range []string{"", "HTTP/1.1 400 Bad Request\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				io.WriteString(c, says)
			}
		}()
		h.Address = l.Addr().String()
		if _, err := h.Banner(t.Context(), 100*time.Millisecond); err == nil {
			t.Errorf("Banner accepted %q", says)
		}
		cause := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, cause)
		defer cancel()
		if _, err := h.Connect(ctx); says == "" && !errors.Is(err, cause) {
			t.Errorf("a canceled login: %v", err)
		}
	}
}

// A busy guest greets late.
func TestLate(t *testing.T) {
	h := newHost(t)
	there := serve(t, h.HostKey, h.Key)
	h.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := net.Dial("tcp", there)
		return &late{c}, err
	}
	if _, err := h.Try(t.Context(), 50*time.Millisecond); err == nil {
		t.Error("Try succeeded within 50 ms")
	}
	if out, err := h.Run(t.Context(), "x"); string(out) != "hello\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// late is a connection that waits 100 ms before each read.
type late struct{ net.Conn }

func (l *late) Read(b []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	return l.Conn.Read(b)
}

// The shell reads back the quoted word unchanged.
func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "plain", "a b", "it's", "$(reboot)", "-n", "\n", "\\", "ü", "~", "*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return // an argument cannot hold NUL
		}
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)+"x").Output()
		if err != nil || string(out) != s+"x" {
			t.Errorf("%q became %q, %v", s, out, err)
		}
	})
}

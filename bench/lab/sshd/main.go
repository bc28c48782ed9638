// Command sshd replaces OpenSSH's server in the guests of tests for which the
// distribution's package is not available. It is a static program that reads the
// same keys from the same places, and only runs commands.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/crypto/ssh"
)

func main() {
	if len(os.Args) < 2 { // start a daemon
		cmd := exec.Command("/proc/self/exe", "serve")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "sshd:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "sshd:", serve())
	os.Exit(1)
}

// serve accepts connections until an error ends it. It never returns nil.
func serve() error {
	private, err := os.ReadFile("/etc/ssh/ssh_host_ed25519_key")
	if err != nil {
		return err
	}
	host, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		b, err := os.ReadFile("/etc/ssh/meros_authorized_keys/" + c.User())
		if err != nil {
			return nil, err
		}
		known, _, _, _, err := ssh.ParseAuthorizedKey(b)
		if err != nil || !bytes.Equal(known.Marshal(), key.Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	config.AddHostKey(host)
	l, err := net.Listen("tcp", ":22")
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go connection(c, config)
	}
}

func connection(c net.Conn, config *ssh.ServerConfig) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		if n.ChannelType() != "session" {
			n.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		go session(ch, requests)
	}
}

func session(ch ssh.Channel, requests <-chan *ssh.Request) {
	for r := range requests {
		var command struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
			r.Reply(r.Type == "env", nil)
			continue
		}
		r.Reply(true, nil)
		go func() {
			defer ch.Close()
			cmd := exec.Command("/bin/sh", "-c", command.Line)
			cmd.Dir, cmd.Stdout, cmd.Stderr = "/root", ch, ch.Stderr()
			cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
			in, err := cmd.StdinPipe() // Wait then does not wait for the client's input
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				fmt.Fprintln(ch.Stderr(), err)
				return
			}
			go func() { io.Copy(in, ch); in.Close() }()
			cmd.Wait()
			ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(cmd.ProcessState.ExitCode())}))
		}()
	}
}

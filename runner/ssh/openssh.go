// This file writes command lines and configuration for the user's ssh(1). It
// starts no program.

package ssh

import (
	"fmt"
	"strings"
)

// KnownHost returns the host's line of a known_hosts file, sshd(8). It names the
// host by its alias.
func (h *Host) KnownHost() []byte {
	return fmt.Appendf(nil, "%s %s", h.Name, h.HostKey.Public())
}

// maxControl is the longest path of a control socket in bytes. ssh(1) appends 17
// bytes while it makes the socket, and an address has 108, unix(7).
const maxControl = 90

// options returns the host's options of ssh_config(5). Nothing in them depends on
// the user's configuration. proxy is the argument vector of a program that passes
// a connection to the host over its standard output, ProxyUseFdpass.
func (h *Host) options(knownHosts string, proxy []string) [][2]string {
	all := [][2]string{{"ControlPath", "none"}}
	if h.Control != "" && len(h.Control) <= maxControl {
		all = [][2]string{{"ControlPath", h.Control}, {"ControlMaster", "auto"}, {"ControlPersist", "60"}}
	}
	all = append(all, [][2]string{
		{"IdentityFile", h.Key.File}, {"IdentitiesOnly", "yes"}, {"IdentityAgent", "none"}, {"PreferredAuthentications", "publickey"},
		{"UserKnownHostsFile", knownHosts}, {"GlobalKnownHostsFile", "none"}, {"StrictHostKeyChecking", "yes"}, {"HostKeyAlias", h.Name},
		{"CheckHostIP", "no"}, {"UpdateHostKeys", "no"}, {"LogLevel", "ERROR"}, {"ConnectTimeout", "20"}, {"ServerAliveInterval", "15"},
		{"ForwardAgent", "no"}, {"ForwardX11", "no"}, {"ProxyUseFdpass", "yes"},
	}...)
	for i, o := range all {
		if strings.ContainsAny(o[1], " \t") {
			all[i][1] = `"` + o[1] + `"`
		}
	}
	all = append(all, [2]string{"ProxyCommand", Line(proxy)})
	for i := range all {
		all[i][1] = strings.ReplaceAll(all[i][1], "%", "%%")
	}
	return all
}

// Config returns the host's section of an ssh_config(5), for commands such as
// ssh -F FILE NAME, scp and rsync.
func (h *Host) Config(knownHosts string, proxy []string) string {
	short, _, _ := strings.Cut(h.Name, ".")
	text := fmt.Sprintf("Host %s %s\n  User %s\n", h.Name, short, h.User)
	for _, o := range h.options(knownHosts, proxy) {
		text += "  " + o[0] + " " + o[1] + "\n"
	}
	return text
}

// Argv returns the argument vector of ssh(1), which ignores the user's
// configuration. knownHosts is a file with the line of [Host.KnownHost]. A
// command of one word is a line for the remote shell. Several words reach the
// command unchanged, as its argument vector. The options in more override
// meros' own.
func (h *Host) Argv(knownHosts string, proxy, more, command []string) []string {
	argv := append([]string{"ssh", "-F", "none"}, more...) // ssh uses the first of two values
	for _, o := range h.options(knownHosts, proxy) {
		argv = append(argv, "-o", o[0]+"="+o[1])
	}
	argv = append(argv, h.User+"@"+h.Name)
	switch len(command) {
	case 0:
		return argv
	case 1:
		return append(argv, "--", command[0])
	}
	return append(argv, "--", Line(command))
}

// Line returns an argument vector as a line of a POSIX shell.
func Line(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = Quote(w)
	}
	return strings.Join(words, " ")
}

// Quote returns s as one word of a POSIX shell, for any bytes but NUL.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// This file writes command lines and configuration for the user's ssh(1). It
// starts no program.

package ssh

import (
	"fmt"
	"strings"
)

// KnownHost is the line of a known_hosts file, sshd(8), for the host's alias.
func (h *Host) KnownHost() []byte {
	return fmt.Appendf(nil, "%s %s", h.Name, h.HostKey.Public())
}

// maxControl is how long the path of a control socket may be: ssh(1) adds 17
// bytes while it makes it, and an address has 108, unix(7).
const maxControl = 90

// options are what ssh(1) is told of the host, ssh_config(5), and nothing that
// the user's configuration says. proxy is the argument vector of a program that
// hands its standard output a connection to the host, ProxyUseFdpass.
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

// Config is the host's part of an ssh_config(5), for commands such as
// ssh -F FILE NAME, scp and rsync.
func (h *Host) Config(knownHosts string, proxy []string) string {
	short, _, _ := strings.Cut(h.Name, ".")
	text := fmt.Sprintf("Host %s %s\n  User %s\n", h.Name, short, h.User)
	for _, o := range h.options(knownHosts, proxy) {
		text += "  " + o[0] + " " + o[1] + "\n"
	}
	return text
}

// Argv is a call of ssh(1) that takes nothing from the user's configuration.
// knownHosts holds the line of [Host.KnownHost]. One word of command is a
// line for the remote shell, several are an argument vector, kept as it is.
// more are options of ssh that count more than its own.
func (h *Host) Argv(knownHosts string, proxy, more, command []string) []string {
	argv := append([]string{"ssh", "-F", "none"}, more...) // the first of two values is taken
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

// Line is an argument vector as a line of a POSIX shell.
func Line(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = Quote(w)
	}
	return strings.Join(words, " ")
}

// Quote makes one word of a POSIX shell of s, whatever is in it.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package ssh

import (
	"fmt"
	"strings"
)

// KnownHost is the line of a known_hosts file, sshd(8), for the host's alias.
func (h *Host) KnownHost() []byte {
	return fmt.Appendf(nil, "%s %s", h.Name, h.HostKey.Public())
}

// Argv is a call of ssh(1) that takes nothing from the user's configuration.
// knownHosts holds the line of [Host.KnownHost]. One word of command is a
// line for the remote shell, several are an argument vector, kept as it is.
// proxy is the argument vector of a program that hands its standard output a
// connection to the host, ProxyUseFdpass in ssh_config(5).
func (h *Host) Argv(knownHosts string, proxy, command []string) []string {
	argv := []string{"ssh", "-F", "none"}
	for _, o := range [][2]string{
		{"IdentityFile", h.Key.File}, {"IdentitiesOnly", "yes"}, {"IdentityAgent", "none"}, {"PreferredAuthentications", "publickey"},
		{"UserKnownHostsFile", knownHosts}, {"GlobalKnownHostsFile", "none"}, {"StrictHostKeyChecking", "yes"}, {"HostKeyAlias", h.Name},
		{"CheckHostIP", "no"}, {"UpdateHostKeys", "no"}, {"LogLevel", "ERROR"}, {"ConnectTimeout", "20"}, {"ServerAliveInterval", "15"},
		{"ControlPath", "none"}, {"ForwardAgent", "no"}, {"ForwardX11", "no"}, {"ProxyUseFdpass", "yes"},
	} {
		value := o[1]
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"` // ssh_config(5)
		}
		argv = append(argv, "-o", o[0]+"="+strings.ReplaceAll(value, "%", "%%"))
	}
	argv = append(argv, "-o", "ProxyCommand="+strings.ReplaceAll(line(proxy), "%", "%%"), h.User+"@"+h.Name)
	switch len(command) {
	case 0:
		return argv
	case 1:
		return append(argv, "--", command[0])
	}
	return append(argv, "--", line(command))
}

// line is an argument vector as a line of a POSIX shell.
func line(argv []string) string {
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

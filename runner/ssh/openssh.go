package ssh

import (
	"fmt"
	"net"
	"strings"
)

// KnownHost is the line of a known_hosts file, sshd(8), for the host's alias.
func (h *Host) KnownHost() []byte {
	return fmt.Appendf(nil, "%s %s", h.Name, h.HostKey.Public())
}

// Argv is a call of ssh(1) that takes nothing from the user's configuration.
// knownHosts holds the line of [Host.KnownHost]. One word of command is a
// line for the remote shell, several are an argument vector, kept as it is.
func (h *Host) Argv(knownHosts string, command []string) ([]string, error) {
	host, port, err := net.SplitHostPort(h.Address)
	if err != nil {
		return nil, err
	}
	argv := []string{"ssh", "-F", "none", "-p", port}
	for _, o := range [][2]string{
		{"IdentityFile", h.Key.File}, {"IdentitiesOnly", "yes"}, {"IdentityAgent", "none"}, {"PreferredAuthentications", "publickey"},
		{"UserKnownHostsFile", knownHosts}, {"GlobalKnownHostsFile", "none"}, {"StrictHostKeyChecking", "yes"}, {"HostKeyAlias", h.Name},
		{"CheckHostIP", "no"}, {"UpdateHostKeys", "no"}, {"LogLevel", "ERROR"}, {"ConnectTimeout", "20"}, {"ServerAliveInterval", "15"},
		{"ControlPath", "none"}, {"ForwardAgent", "no"}, {"ForwardX11", "no"},
	} {
		value := o[1]
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"` // ssh_config(5)
		}
		argv = append(argv, "-o", o[0]+"="+strings.ReplaceAll(value, "%", "%%"))
	}
	argv = append(argv, h.User+"@"+host)
	switch len(command) {
	case 0:
		return argv, nil
	case 1:
		return append(argv, "--", command[0]), nil
	}
	words := make([]string, len(command))
	for i, w := range command {
		words[i] = Quote(w)
	}
	return append(argv, "--", strings.Join(words, " ")), nil
}

// Quote makes one word of a POSIX shell of s, whatever is in it.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

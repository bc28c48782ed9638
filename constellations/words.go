// This file splits the value of qemu_args into words.

package constellations

import (
	"fmt"
	"strings"
)

// splitWords splits s into words as a POSIX shell does (Shell Command
// Language, section 2.2), without any expansion.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	quote := rune(0)
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		r := rs[i]
		switch {
		case quote == '\'':
			if r == '\'' {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\\':
			if i+1 == len(rs) {
				return nil, fmt.Errorf("%q ends with a backslash", s)
			}
			next := rs[i+1]
			if quote == '"' && !strings.ContainsRune("$`\"\\\n", next) {
				word.WriteRune(r) // in double quotes a backslash escapes only these
				inWord = true
				continue
			}
			i++
			if next != '\n' {
				word.WriteRune(next)
				inWord = true
			}
		case quote == '"':
			if r == '"' {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("%q: the quote %c is not closed", s, quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// This file evaluates the conditions of Kconfig files.
//
// The rules are those of the kernel document kbuild/kconfig-language, "Menu
// dependencies": n, m and y are 0, 1 and 2. ! subtracts from 2, && is the smaller and
// || the larger value.

package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// tokens splits an expression. A macro, $(...), is one token.
func tokens(e string) []string {
	var ts []string
	for i := 0; i < len(e); {
		switch c := e[i]; {
		case c == ' ' || c == '\t':
			i++
		case strings.HasPrefix(e[i:], "&&") || strings.HasPrefix(e[i:], "||") || strings.HasPrefix(e[i:], "!=") || strings.HasPrefix(e[i:], "<=") || strings.HasPrefix(e[i:], ">="):
			ts = append(ts, e[i:i+2])
			i += 2
		case strings.ContainsRune("()!=<>", rune(c)):
			ts = append(ts, string(c))
			i++
		case c == '"' || c == '\'':
			end := strings.IndexByte(e[i+1:], c)
			if end < 0 {
				end = len(e) - i - 2
			}
			ts = append(ts, e[i:i+end+2])
			i += end + 2
		case strings.HasPrefix(e[i:], "$("):
			end, depth := i, 0
			for ; end < len(e); end++ {
				if e[end] == '(' {
					depth++
				} else if e[end] == ')' {
					if depth--; depth == 0 {
						end++
						break
					}
				}
			}
			ts = append(ts, e[i:end])
			i = end
		default:
			end := i
			for end < len(e) && !strings.ContainsRune(" \t()!=<>&|\"'", rune(e[end])) {
				end++
			}
			end = max(end, i+1)
			ts = append(ts, e[i:end])
			i = end
		}
	}
	return ts
}

// expression evaluates tokens.
type expression struct {
	tokens []string
	at     int
	config Config
}

// evaluate returns 0, 1 or 2. The value of a macro is unknown here and counts as 2.
func evaluate(e string, c Config) int {
	x := &expression{tokens: tokens(e), config: c}
	return x.or()
}

func (x *expression) peek() string {
	if x.at < len(x.tokens) {
		return x.tokens[x.at]
	}
	return ""
}

func (x *expression) or() int {
	v := x.and()
	for x.peek() == "||" {
		x.at++
		v = max(v, x.and())
	}
	return v
}

func (x *expression) and() int {
	v := x.not()
	for x.peek() == "&&" {
		x.at++
		v = min(v, x.not())
	}
	return v
}

func (x *expression) not() int {
	switch x.peek() {
	case "!":
		x.at++
		return 2 - x.not()
	case "(":
		x.at++
		v := x.or()
		if x.peek() == ")" {
			x.at++
		}
		return v
	case "":
		return 2
	}
	left := x.peek()
	x.at++
	switch op := x.peek(); op {
	case "=", "!=":
		x.at++
		right := x.peek()
		x.at++
		if strings.HasPrefix(left, "$") || strings.HasPrefix(right, "$") || (x.word(left) == x.word(right)) == (op == "=") {
			return 2
		}
		return 0
	case "<", ">", "<=", ">=":
		x.at += 2
		return 2
	}
	return map[string]int{"y": 2, "m": 1, "n": 0}[x.tristate(left)]
}

// tristate returns the value of a symbol as a condition.
func (x *expression) tristate(t string) string {
	if strings.HasPrefix(t, "$") {
		return "y"
	}
	return x.word(t)
}

// word returns the value of a symbol or constant.
func (x *expression) word(t string) string {
	switch {
	case t == "y" || t == "m" || t == "n" || t != "" && t[0] >= '0' && t[0] <= '9' && x.config[t] == "":
		return t
	case len(t) >= 2 && (t[0] == '"' || t[0] == '\''):
		return t[1 : len(t)-1]
	}
	return strings.Trim(x.config.Value(t), `"`)
}

// conjuncts returns the parts of an expression that && joins at the top level.
func conjuncts(e string) []string {
	var parts []string
	depth, from := 0, 0
	for i := 0; i < len(e); i++ {
		switch {
		case e[i] == '(':
			depth++
		case e[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(e[i:], "||"):
			return []string{strings.TrimSpace(e)}
		case depth == 0 && strings.HasPrefix(e[i:], "&&"):
			parts = append(parts, strings.TrimSpace(e[from:i]))
			from = i + 2
		}
	}
	return append(parts, strings.TrimSpace(e[from:]))
}

// values returns the symbols of an expression with their values.
func values(e string, c Config) string {
	var parts []string
	for _, t := range tokens(e) {
		if strings.ContainsAny(t[:1], "()!=<>&|\"'$") || t == "y" || t == "m" || t == "n" || strings.Trim(t, "0123456789") == "" {
			continue
		}
		if s := fmt.Sprintf("%s=%s", t, c.Value(t)); !slices.Contains(parts, s) {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ", ")
}

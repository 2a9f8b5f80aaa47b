package health

import (
	"errors"
	"fmt"
	"strings"
)

// rcScript prints every variable of rc.conf as sh(1) prints variables, after the
// files were read the way rc(8) reads them.
const rcScript = ". /etc/defaults/rc.conf; source_rc_confs; set"

// rcCommand evaluates the rc.conf of a jail, inside of it: the file is a program
// of the jail's own root. "" is the host.
func rcCommand(jail string) []string {
	argv := []string{"/bin/sh", "-c", rcScript}
	if jail != "" {
		argv = append([]string{"jexec", jail}, argv...)
	}
	return argv
}

// parseRC reads the output of set: NAME=value lines, values quoted where they have
// to be (FreeBSD 15.1 bin/sh/output.c, outqstr): bare, '…' or $'…'.
func parseRC(text string) (map[string]string, error) {
	vars := map[string]string{}
	for rest := text; rest != ""; {
		name, after, ok := strings.Cut(rest, "=")
		if !ok || name == "" || strings.ContainsAny(name, " \t\n'") {
			line, _, _ := strings.Cut(rest, "\n")
			return nil, fmt.Errorf("output of set: %q is not a variable", line)
		}
		value, after, err := shellValue(after)
		if err != nil {
			return nil, fmt.Errorf("output of set: %s: %w", name, err)
		}
		vars[name], rest = value, after
	}
	if _, ok := vars["rc_conf_files"]; !ok {
		return nil, errors.New("output of set: /etc/defaults/rc.conf was not read")
	}
	return vars, nil
}

// shellValue reads one value up to the end of its line.
func shellValue(s string) (value, rest string, err error) {
	var b strings.Builder
	for s != "" && s[0] != '\n' {
		switch {
		case s[0] == '\'':
			end := strings.IndexByte(s[1:], '\'')
			if end < 0 {
				return "", "", errors.New("a quote is not closed")
			}
			b.WriteString(s[1 : 1+end])
			s = s[end+2:]
		case strings.HasPrefix(s, "$'"):
			if s, err = dollarQuoted(&b, s[2:]); err != nil {
				return "", "", err
			}
		default:
			b.WriteByte(s[0])
			s = s[1:]
		}
	}
	return b.String(), strings.TrimPrefix(s, "\n"), nil
}

// dollarQuoted reads the inside of $'…' and returns what follows it.
func dollarQuoted(b *strings.Builder, s string) (rest string, err error) {
	escapes := map[byte]byte{'n': '\n', 'r': '\r', 't': '\t', '\'': '\'', '\\': '\\'}
	for s != "" {
		switch {
		case s[0] == '\'':
			return s[1:], nil
		case s[0] != '\\':
			b.WriteByte(s[0])
			s = s[1:]
		case len(s) >= 2 && escapes[s[1]] != 0:
			b.WriteByte(escapes[s[1]])
			s = s[2:]
		case len(s) >= 4 && isOctal(s[1:4]):
			b.WriteByte((s[1]-'0')<<6 | (s[2]-'0')<<3 | (s[3] - '0'))
			s = s[4:]
		default:
			return "", fmt.Errorf("escape %.4q is unknown", s)
		}
	}
	return "", errors.New("a quote is not closed")
}

func isOctal(s string) bool { return strings.Trim(s, "01234567") == "" }

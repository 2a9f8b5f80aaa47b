package site

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/overlay/answers"
)

// generated is the origin of answers that Generate made.
const generated = "generated"

// Lengths of what is generated, in characters of five random bits.
const (
	keyLength      = 64
	passwordLength = 20
)

// Password is one that was generated. Only its hash is kept.
type Password struct {
	Server *Server
	Key    string // of the question it answers, "secrets.root_hash"
	Text   answers.SecretValue
}

// Generate makes the secrets that are missing and may be generated, with
// crypto/rand: one for both servers where they have the same, and hashes of
// passwords, which are returned.
func (s *Site) Generate() ([]Password, error) {
	var out []Password
	for _, q := range s.qs {
		if !q.Generate {
			continue
		}
		var text, value answers.SecretValue
		for i := range s.Servers {
			v := &s.Servers[i]
			if v.Set.Secret(q.Key) != "" {
				continue
			}
			if text == "" || !q.Same {
				text, value = newSecret(q)
			}
			if err := v.Set.SetFrom(q.Key, value, generated); err != nil {
				return nil, fmt.Errorf("generate %s: %w", q.Key, err)
			}
			if err := s.secrets[i].SetFrom(q.Key, value, generated); err != nil {
				return nil, fmt.Errorf("generate %s: %w", q.Key, err)
			}
			s.made = true
			if q.Type == answers.PasswordHash {
				out = append(out, Password{v, q.Key, text})
			}
		}
	}
	return out, nil
}

// newSecret returns a secret and the answer that says it: itself, or a hash.
func newSecret(q answers.Question) (text, value answers.SecretValue) {
	if q.Type == answers.PasswordHash {
		t := randomText(passwordLength)
		return answers.SecretValue(t), answers.SecretValue(sha512crypt(t, randomText(maxSalt)))
	}
	n := int64(keyLength)
	if q.Min != nil {
		n = max(n, *q.Min)
	}
	if q.Max != nil {
		n = min(n, *q.Max)
	}
	t := answers.SecretValue(randomText(int(n)))
	return t, t
}

// randomText is n characters of a to z and 2 to 7.
func randomText(n int) string {
	b := make([]byte, n) // more than enough
	_, _ = rand.Read(b)  // never fails, see crypto/rand
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}

// Secrets is the secrets file: what it had, and what was generated. It is nil
// when nothing was.
func (s *Site) Secrets() []byte {
	if !s.made {
		return nil
	}
	var both, own bytes.Buffer
	var lines [2][]string
	for _, q := range s.qs {
		var value [2]string
		for i, set := range s.secrets {
			if v, ok := set.Get(q.Key); ok && stated(set, q.Key) {
				value[i] = q.Key + " = " + answers.Literal(q, v)
			}
		}
		if value[0] == value[1] && value[0] != "" {
			fmt.Fprintln(&both, value[0])
			continue
		}
		for i, l := range value {
			if l != "" {
				lines[i] = append(lines[i], l)
			}
		}
	}
	for i := range lines {
		if len(lines[i]) > 0 {
			fmt.Fprintf(&own, "\n[%s]\n%s\n", letters[i], strings.Join(lines[i], "\n"))
		}
	}
	text := "# Secrets that \"rigimage answers\" made for " + filepath.Base(s.name) + ", whose own answers win. Keep this file, for\n" +
		"# its owner alone. What is removed here is made anew the next time.\n\n" + fmt.Sprintf("schema = %d\n", answers.Schema)
	if both.Len() > 0 {
		text += "\n[" + common + "]\n" + both.String()
	}
	return []byte(text + own.String())
}

package answers

import "strings"

// Encrypted reports whether the pool is to be encrypted: that, or a passphrase,
// was answered. A passphrase outweighs encrypt = false, the default.
func (s *Set) Encrypted() bool { return s.Bool(KeyEncrypt) || s.Secret(KeyPassphrase) != "" }

// needed reports whether q must have an answer. That of a passphrase depends on
// another answer.
func (s *Set) needed(q *Question) bool {
	return q.Required || q.Key == KeyPassphrase && s.Bool(KeyEncrypt)
}

// passphrase says what is wrong with the passphrase that a length does not tell.
func (s *Set) passphrase(q *Question) (conflict, bool) {
	if q.Key != KeyPassphrase {
		return conflict{}, false
	}
	// The kernel's prompt cuts off each byte's eighth bit (sys/kern/kern_cons.c cngets).
	if strings.ContainsFunc(s.Secret(q.Key).Reveal(), func(r rune) bool { return r < ' ' || r > '~' }) {
		return conflict{q, -1, "", "characters beyond ASCII; expected what the prompt at the start can take"}, true
	}
	return conflict{}, false
}

package answers

import "github.com/rig-freebsd/rig/internal/diag"

// CheckUnattended reports what an install without a person lacks: required
// answers, and hashes of passwords, as one that is generated is shown on the
// console once and nobody is there to see it. It is nil for other installs.
func (s *Set) CheckUnattended() error {
	if !s.Bool(KeyUnattended) {
		return nil
	}
	var ps diag.Problems
	for _, q := range s.Missing() {
		ps.Add(diag.Problem{Key: q.Key, Msg: "no answer, and an unattended install asks nobody"})
	}
	for _, q := range s.Ungenerated() {
		if q.Type == PasswordHash {
			ps.Add(diag.Problem{Key: q.Key, Msg: "no answer, and an unattended install shows nobody a generated password; give a hash, as openssl passwd -6 makes it, or \"*\" for none"})
		}
	}
	return ps.Err()
}

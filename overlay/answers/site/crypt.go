package site

import "crypto/sha512"

// maxSalt is the longest salt of SHA-crypt, in characters.
const maxSalt = 16

// rounds is the number of rounds when a hash names none.
const rounds = 5000

// sha512crypt hashes a password as crypt(3) does for $6$: "Unix crypt using SHA-256
// and SHA-512" by Ulrich Drepper, version 0.6; FreeBSD has it in
// lib/libcrypt/crypt-sha512.c. salt is 1 to 16 characters of [./0-9A-Za-z]. Other
// numbers of rounds are left out.
func sha512crypt(password, salt string) string {
	p, s := []byte(password), []byte(salt)
	b := sum(p, s, p)
	a := append(append(append([]byte(nil), p...), s...), cycle(b, len(p))...)
	for n := len(p); n > 0; n >>= 1 {
		if n&1 != 0 {
			a = append(a, b...)
		} else {
			a = append(a, p...)
		}
	}
	a = sum(a)

	var text []byte
	for range p {
		text = append(text, p...)
	}
	ps := cycle(sum(text), len(p))
	text = nil
	for range 16 + int(a[0]) {
		text = append(text, s...)
	}
	ss := cycle(sum(text), len(s))

	for i := range rounds {
		var c []byte
		if i%2 != 0 {
			c = append(c, ps...)
		} else {
			c = append(c, a...)
		}
		if i%3 != 0 {
			c = append(c, ss...)
		}
		if i%7 != 0 {
			c = append(c, ps...)
		}
		if i%2 != 0 {
			c = append(c, a...)
		} else {
			c = append(c, ps...)
		}
		a = sum(c)
	}
	return "$6$" + salt + "$" + crypt64(a)
}

func sum(parts ...[]byte) []byte {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// cycle repeats b to n bytes.
func cycle(b []byte, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = b[i%len(b)]
	}
	return out
}

// crypt64 writes the 64 bytes of a sum as crypt(3) does: 86 characters, of six
// bits each from the low end of three bytes that lie 21 apart.
func crypt64(sum []byte) string {
	const digits = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out []byte
	put := func(w uint32, n int) {
		for range n {
			out = append(out, digits[w&63])
			w >>= 6
		}
	}
	i, j, k := 0, 21, 42
	for range 21 {
		put(uint32(sum[i])<<16|uint32(sum[j])<<8|uint32(sum[k]), 4)
		i, j, k = j+1, k+1, i+1
	}
	put(uint32(sum[63]), 2)
	return string(out)
}

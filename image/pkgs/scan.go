package pkgs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

const (
	scanBuffer = 256 << 10
	maxElement = 16 << 20 // bytes of one package's entry
)

// scanner cuts a stream into JSON values without understanding them.
type scanner struct {
	r          io.Reader
	buf        []byte
	start, end int // what is left of buf
	eof        bool
}

func newScanner(r io.Reader) *scanner { return &scanner{r: r, buf: make([]byte, scanBuffer)} }

// fill reads more behind what is left, making room for it.
func (s *scanner) fill() error {
	if s.eof {
		return io.ErrUnexpectedEOF
	}
	if s.start > 0 {
		s.end = copy(s.buf, s.buf[s.start:s.end])
		s.start = 0
	}
	if s.end == len(s.buf) {
		if len(s.buf) >= maxElement {
			return fmt.Errorf("an entry of more than %d bytes", maxElement)
		}
		s.buf = append(s.buf, make([]byte, len(s.buf))...)
	}
	n, err := s.r.Read(s.buf[s.end:])
	s.end += n
	if err == io.EOF {
		s.eof, err = true, nil
	}
	return err
}

// peek returns the next byte that is not white space, io.EOF at the end.
func (s *scanner) peek() (byte, error) {
	for {
		for ; s.start < s.end; s.start++ {
			switch c := s.buf[s.start]; c {
			case ' ', '\t', '\r', '\n':
			default:
				return c, nil
			}
		}
		if s.eof {
			return 0, io.EOF
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// expect takes the next byte.
func (s *scanner) expect(want byte) error {
	c, err := s.peek()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && c != want {
		err = fmt.Errorf("%q where %q was expected", c, want)
	}
	s.start++
	return err
}

// more says whether another element follows in an object or array that ends with
// closing, and takes the comma or the end.
func (s *scanner) more(closing byte, first bool) (bool, error) {
	c, err := s.peek()
	switch {
	case err == io.EOF:
		return false, io.ErrUnexpectedEOF
	case err != nil:
		return false, err
	case c == closing:
		s.start++
		return false, nil
	case first:
		return true, nil
	}
	return true, s.expect(',')
}

// value returns the next object, array or string; or the number or word up to the
// next delimiter. It is valid until the next call.
func (s *scanner) value() ([]byte, error) {
	if _, err := s.peek(); err != nil {
		return nil, err
	}
	depth, quoted := 0, false
	for i := 0; ; {
		if s.start+i == s.end {
			if s.eof && depth == 0 && !quoted { // a number at the end
				return s.take(i), nil
			}
			if err := s.fill(); err != nil {
				return nil, err
			}
			continue
		}
		rest := s.buf[s.start+i : s.end]
		if quoted {
			n := bytes.IndexAny(rest, `"\`)
			switch {
			case n < 0:
				i += len(rest)
			case rest[n] == '"':
				quoted = false
				if i += n + 1; depth == 0 {
					return s.take(i), nil
				}
			case n+1 < len(rest):
				i += n + 2
			default: // the escaped byte is still to come
				i += n
				if err := s.fill(); err != nil {
					return nil, err
				}
			}
			continue
		}
		switch rest[0] {
		case '"':
			quoted = true
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.take(i), nil
			}
			if depth--; depth == 0 {
				return s.take(i + 1), nil
			}
		case ',', ':', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return s.take(i), nil
			}
		}
		i++
	}
}

func (s *scanner) take(n int) []byte {
	v := s.buf[s.start : s.start+n]
	s.start += n
	return v
}

// scanLines yields the entries of packagesite.yaml, one JSON object after the other.
func scanLines(r io.Reader, yield func(entry []byte) error) error {
	s := newScanner(r)
	for {
		c, err := s.peek()
		if err == io.EOF {
			return nil
		}
		if err == nil && c != '{' {
			err = fmt.Errorf("%q where an entry should begin", c)
		}
		if err != nil {
			return err
		}
		v, err := s.value()
		if err == nil {
			err = yield(v)
		}
		if err != nil {
			return err
		}
	}
}

// scanData yields the elements of "packages" of the one object that data is.
func scanData(r io.Reader, yield func(entry []byte) error) error {
	s := newScanner(r)
	if err := s.expect('{'); err != nil {
		return err
	}
	found := false
	for first := true; ; first = false {
		more, err := s.more('}', first)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		raw, err := s.value()
		if err != nil {
			return err
		}
		var key string
		if err := json.Unmarshal(raw, &key); err != nil {
			return err
		}
		if err := s.expect(':'); err != nil {
			return err
		}
		if key != "packages" {
			if raw, err = s.value(); err == nil && !json.Valid(raw) {
				err = fmt.Errorf("%s is not JSON", key)
			}
		} else if found {
			err = errors.New("packages are there twice")
		} else {
			found = true
			err = s.array(yield)
		}
		if err != nil {
			return err
		}
	}
	if c, err := s.peek(); err != io.EOF {
		return fmt.Errorf("%q behind the end (%v)", c, err)
	}
	if !found {
		return errors.New("no packages in it")
	}
	return nil
}

func (s *scanner) array(yield func(entry []byte) error) error {
	if err := s.expect('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		more, err := s.more(']', first)
		if err != nil || !more {
			return err
		}
		v, err := s.value()
		if err == nil {
			err = yield(v)
		}
		if err != nil {
			return err
		}
	}
}

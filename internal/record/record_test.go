package record

import (
	"math"
	"testing"
)

const magic = "test 1\n"

func sample() []byte {
	w := NewWriter(magic, 0)
	w.Num(math.MinInt64)
	w.Num(math.MaxInt64)
	w.Str("")
	w.Str("name")
	return w.Bytes()
}

func read(b []byte) bool {
	r := NewReader(b, magic)
	ok := r.Num(math.MinInt64, 0) == math.MinInt64 && r.Num(0, math.MaxInt64) == math.MaxInt64 && r.Str() == "" && r.Str() == "name"
	return ok && r.Done()
}

func TestRoundTrip(t *testing.T) {
	b := sample()
	if !read(b) {
		t.Fatal("what was written is not what is read")
	}
	for i := range b {
		b[i] ^= 1
		if read(b) {
			t.Errorf("byte %d changed, and nobody noticed", i)
		}
		b[i] ^= 1
		if read(b[:i]) {
			t.Errorf("cut after %d bytes, and nobody noticed", i)
		}
	}
	if r := NewReader(b, "test 2\n"); !r.Bad() {
		t.Error("another format was accepted")
	}
	r := NewReader(b, magic)
	if r.Num(0, 5); r.Done() || !r.Bad() {
		t.Error("a number outside of its bounds was accepted")
	}
	r = NewReader(b, magic)
	if r.Num(math.MinInt64, 0); r.Done() {
		t.Error("done with bytes left")
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/referee"
	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"rigimage": func() { os.Exit(runMain(os.Args[1:], cli.OS())) },
	})
}

// TestScripts runs rigimage as a person does. $CHECKOUT is where it finds what it
// compiles riginstall from; Go's caches are the real ones.
func TestScripts(t *testing.T) {
	checkout, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	goenv, err := exec.Command("go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	unshare, netns := namespace(t)
	caches := strings.Split(strings.TrimSpace(string(goenv)), "\n")
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("RIG_UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CHECKOUT", checkout)
			e.Setenv("GOCACHE", caches[0])
			e.Setenv("GOMODCACHE", caches[1])
			e.Setenv("GOPROXY", "off")
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "user-cache"))
			e.Setenv("RIG_SETS", "")
			e.Setenv("UNSHARE", unshare)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "netns" {
				return false, fmt.Errorf("unknown condition %q", name)
			}
			return netns, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "flip": flip, "edit": edit, "repo": writeRepo(t)},
	})
}

// namespace returns how to run a program in a network namespace of its own, and
// whether there is all that the scripts need in it.
func namespace(t *testing.T) (unshare string, ok bool) {
	for _, name := range []string{"unshare", "nsenter", "ip", "curl"} {
		if _, found := referee.Find(name); !found {
			t.Logf("REFEREE MISSING: %s; nothing is served", name)
			return "", false
		}
	}
	flags := "-rn"
	if os.Getuid() == 0 {
		flags = "-n"
	}
	script := filepath.Join(t.TempDir(), "unshare") // testscript's variables are one argument
	if err := os.WriteFile(script, []byte("#!/bin/sh\nPATH=$PATH:/usr/sbin:/sbin exec unshare "+flags+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(script, "ip", "link", "add", "rig0", "type", "veth", "peer", "name", "rig1").CombinedOutput(); err != nil {
		t.Logf("NO NETWORK NAMESPACE: %v: %s; nothing is served", err, out)
		return "", false
	}
	return script, true
}

// exits runs a command that ends with this status: exits STATUS COMMAND…
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var ee *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ee) {
		got = ee.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// flip changes one byte of the first place a file holds a text: flip FILE TEXT
func flip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: flip FILE TEXT")
	}
	name := ts.MkAbs(args[0])
	b, err := os.ReadFile(name)
	ts.Check(err)
	at := bytes.Index(b, []byte(args[1]))
	if at < 0 {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt([]byte{b[at] ^ 1}, int64(at))
	ts.Check(errors.Join(err, f.Close()))
}

// edit replaces a text in a file; \n in it is a line break: edit FILE OLD NEW
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], strings.ReplaceAll(args[2], `\n`, "\n"), 1)), 0o644))
}

package main

import (
	"testing"

	"github.com/rig-freebsd/rig/internal/pkgtest"
	"github.com/rogpeppe/go-internal/testscript"
)

// writeRepo makes the command that writes a repository of packages: repo DIR [new]
func writeRepo(t testing.TB) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 1 || len(args) > 2 {
			ts.Fatalf("usage: repo DIR [new]")
		}
		list := []pkgtest.Pkg{
			{Name: "pkg", Version: "2.8.0", Files: []pkgtest.File{{Path: "/usr/local/sbin/pkg-static", Content: "static pkg\n", Mode: 0o755}}},
			{Name: "web", Version: "1.0,3", Deps: []pkgtest.Dep{{Name: "common"}}, ShlibsRequired: []string{"libmore.so.3", "libc.so.7"},
				Licenses: []string{"BSD2CLAUSE", "OpenSSL"}, Annotations: map[string]string{"cpe": "cpe:2.3:a:f5:web:1.0:::::freebsd15:x64"}},
			{Name: "common", Licenses: []string{"MyOwn"}},
			{Name: "libmore", Version: "3", Licenses: []string{"GPLv2+"}, ShlibsProvided: []string{"libmore.so.3"}},
		}
		if len(args) == 2 {
			list[1].Version, list[2].Comment = "1.1,3", "built again"
			list[1].ShlibsRequired = nil
		}
		pkgtest.Repo{Pkgs: list}.Write(t, ts.MkAbs(args[0]))
	}
}

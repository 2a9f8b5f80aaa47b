package zfs

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/run"
)

// fakeZFS puts a program zfs in front of PATH, as go-zfs finds it there.
func fakeZFS(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "zfs"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestListDatasets(t *testing.T) {
	fakeZFS(t, `
test "$*" = "list -rHp -t all -o name,origin,used,available,mountpoint,compression,type,volsize,quota,referenced,written,logicalused,usedbydataset zroot" || exit 64
printf '%s\t' zroot - 412336128 15000000000 none lz4 filesystem - 0 98304 98304 42496; echo 98304
printf '%s\t' zroot/rig/base@img1 - 0 - - - snapshot - - 300000000 300000000 0; echo -
printf '%s\t' zroot/jails/pg_j zroot/rig/base@img1 8192 15000000000 /jails/pg_j lz4 filesystem - 0 300000000 8192 4096; echo 8192
`)
	got, err := ListDatasets("zroot")
	if err != nil {
		t.Fatal(err)
	}
	want := []DatasetInfo{
		{Name: "zroot", Type: "filesystem", Mountpoint: "none", Used: 412336128, Available: 15000000000, Referenced: 98304},
		{Name: "zroot/rig/base@img1", Type: "snapshot", Referenced: 300000000},
		{Name: "zroot/jails/pg_j", Type: "filesystem", Origin: "zroot/rig/base@img1", Mountpoint: "/jails/pg_j", Used: 8192,
			Available: 15000000000, Referenced: 300000000},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if _, err := ListDatasets(""); err == nil || err.Error() != "list datasets: none named" {
		t.Errorf("no pool: %v", err)
	}
}

// What zfs says reaches the caller as an error of package run.
func TestListDatasetsFails(t *testing.T) {
	fakeZFS(t, `echo "cannot open 'zroot/x': dataset does not exist" >&2; exit 1`)
	_, err := ListDatasets("zroot/x")
	var re *run.Error
	if !errors.As(err, &re) || re.Status != 1 || !strings.Contains(err.Error(), "dataset does not exist") {
		t.Errorf("error %v", err)
	}
}

func TestDatasetsWithoutZFS(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := ListDatasets("zroot")
	const want = `list datasets of zroot: zfs list -rHp -t all -o name,origin,used,available,mountpoint,compression,type,volsize,quota,` +
		`referenced,written,logicalused,usedbydataset zroot: exec: "zfs": executable file not found in $PATH`
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

package zfs

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	gozfs "github.com/mistifyio/go-zfs/v3"

	"rig/internal/run"
)

// DatasetInfo is what is known of an existing dataset.
type DatasetInfo struct {
	Name       string `json:"name"`
	Type       string `json:"type"`             // "filesystem", "snapshot", "volume"
	Origin     string `json:"origin,omitempty"` // the snapshot a clone was made from
	Mountpoint string `json:"mountpoint,omitempty"`
	Used       uint64 `json:"used"`      // bytes
	Available  uint64 `json:"available"` // bytes, 0 for a snapshot
	Referenced uint64 `json:"referenced"`
}

// ListDatasets lists a pool, or a dataset, with everything below it: file
// systems, volumes and snapshots. It runs the zfs found through PATH.
func ListDatasets(pool string) ([]DatasetInfo, error) {
	if pool == "" {
		return nil, errors.New("list datasets: no pool named")
	}
	list, err := gozfs.Datasets(pool)
	if err != nil {
		return nil, fmt.Errorf("list datasets of %s: %w", pool, runError(err))
	}
	out := make([]DatasetInfo, len(list))
	for i, d := range list {
		out[i] = DatasetInfo{
			Name: d.Name, Type: d.Type, Origin: d.Origin, Mountpoint: d.Mountpoint,
			Used: d.Used, Available: d.Avail, Referenced: d.Referenced,
		}
	}
	return out, nil
}

// GetProps reads the named properties of one dataset, each as zfs get -H prints it:
// sizes are rounded, "16K".
// A property the dataset does not have is "-".
func GetProps(dataset string, names ...string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	d := gozfs.Dataset{Name: dataset}
	for _, name := range names {
		v, err := d.GetProperty(name)
		if err != nil {
			return nil, fmt.Errorf("property %s of %s: %w", name, dataset, runError(err))
		}
		out[name] = v
	}
	return out, nil
}

// IsNotExist reports whether err is zfs or zpool saying that a dataset or pool
// does not exist.
func IsNotExist(err error) bool {
	var re *run.Error
	return errors.As(err, &re) &&
		(strings.Contains(re.Stderr, "does not exist") || strings.Contains(re.Stderr, "no such pool"))
}

// runError turns the error of go-zfs, which cannot be unwrapped, into the one of
// package run.
func runError(err error) error {
	var ze *gozfs.Error
	if !errors.As(err, &ze) {
		return err
	}
	status := -1
	var ee *exec.ExitError
	if errors.As(ze.Err, &ee) {
		status = ee.ExitCode()
	}
	return &run.Error{Argv: strings.Fields(ze.Debug), Status: status, Stderr: ze.Stderr, Err: ze.Err}
}

package zfs

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"

	gozfs "github.com/mistifyio/go-zfs/v3"
	"github.com/rig-freebsd/rig/internal/run"
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

// ListDatasets lists a dataset with everything below it: file systems, volumes and
// snapshots. It runs the zfs found through PATH.
func ListDatasets(name string) ([]DatasetInfo, error) {
	if name == "" {
		return nil, errors.New("list datasets: none named")
	}
	list, err := gozfs.Datasets(name)
	if err != nil {
		return nil, fmt.Errorf("list datasets of %s: %w", name, runError(err))
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

// Lister is ListDatasets, or stands for it; nil is ListDatasets.
type Lister func(name string) ([]DatasetInfo, error)

// List lists the dataset of that name and all below it.
func (l Lister) List(name string) ([]DatasetInfo, error) {
	if l == nil {
		return ListDatasets(name)
	}
	return l(name)
}

package place

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
)

// Result is result.json of an installed system.
type Result struct {
	Schema   int            `json:"schema"`
	Image    string         `json:"image"`
	HostUUID string         `json:"hostuuid"`
	Kernel   string         `json:"kernel"` // the id of the image's kernel, see disk.KernelID
	Finished time.Time      `json:"finished"`
	Steps    []StepResult   `json:"steps"` // up to the one that writes this file
	Answers  map[string]any `json:"answers"`
}

// StepResult is how long a step took.
type StepResult struct {
	Name    string  `json:"name"`
	Title   string  `json:"title"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// ReadManifest reads the manifest of the image that the system below root was made of.
func ReadManifest(root string) (*manifest.Manifest, error) {
	m, err := manifestAt(filepath.Join(root, ResultDir, "manifest.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("this is not a system riginstall made: %w", err)
	}
	return m, err
}

// BundleManifest reads the manifest of the bundle that is mounted at BundleDir.
func BundleManifest(root string) (*manifest.Manifest, error) {
	return manifestAt(filepath.Join(root, BundleDir, manifest.File))
}

// AnyManifest reads the manifest of the install that is under way, else that of the
// installed system; nil when there is neither.
func AnyManifest(root string) (*manifest.Manifest, error) {
	for _, name := range []string{BundleDir + "/" + manifest.File, NetManifest, ResultDir + "/manifest.json"} {
		m, err := manifestAt(filepath.Join(root, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return m, err
		}
	}
	return nil, nil
}

func manifestAt(name string) (*manifest.Manifest, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return manifest.Decode(f)
}

// Record reads what the installer recorded of the system below root.
func Record(root string) (*manifest.Manifest, *Result, error) {
	m, err := ReadManifest(root)
	if err != nil {
		return nil, nil, err
	}
	var res Result
	b, err := os.ReadFile(filepath.Join(root, ResultDir, "result.json"))
	if err == nil {
		err = json.Unmarshal(b, &res)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s/result.json: %w", ResultDir, err)
	}
	return m, &res, nil
}

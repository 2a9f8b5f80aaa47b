package firstboot

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"rig/manifest"
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
	f, err := os.Open(filepath.Join(root, ResultDir, "manifest.json"))
	if err != nil {
		return nil, fmt.Errorf("this is not a system riginstall made: %w", err)
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

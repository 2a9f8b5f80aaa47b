package facts

import (
	"context"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
)

// Encryption is what a running kernel says of GELI.
type Encryption struct {
	Boot    bool              // something is opened before the root is mounted
	Under   map[string]string // provider → cipher of the GELI provider it is on: "vtbd0p5.eli" → "AES-XTS 256"
	Serials map[string]string // provider of GELI → serial in the labels of its disk: "vtbd0p5.eli" → "S1"
	Locked  []string          // partitions of encrypted members that are not open: "vtbd2p5"
}

// AskEncryption asks the kernel.
func AskEncryption(ctx context.Context, r run.Runner) (Encryption, error) {
	out, err := r.Run(ctx, run.New("sysctl", "-b", "kern.geom.confxml"))
	if err != nil {
		return Encryption{}, err
	}
	return parseGELI(out)
}

// parseGELI finds in kern.geom.confxml what is encrypted: the providers of GELI's
// geoms, and all that is made of them.
func parseGELI(b []byte) (Encryption, error) {
	s := Encryption{Under: map[string]string{}, Serials: map[string]string{}}
	var mesh geomMesh
	if err := xml.Unmarshal(cleanXML(b), &mesh); err != nil {
		return s, fmt.Errorf("decode kern.geom.confxml: %w", err)
	}
	cipher, used := map[string]string{}, map[string]bool{} // by provider ID
	for changed := true; changed; {
		changed = false
		for _, c := range mesh.Classes {
			for _, g := range c.Geoms {
				how := ""
				if c.Name == "ELI" {
					how = fmt.Sprintf("%s %d", g.Config.Algorithm, g.Config.KeyLength)
					s.Boot = s.Boot || strings.Contains(g.Config.Flags, "BOOT")
				}
				for _, from := range g.Consumers {
					used[from.Provider.Ref] = used[from.Provider.Ref] || c.Name == "ELI"
					if how == "" {
						how = cipher[from.Provider.Ref]
					}
				}
				for _, p := range g.Providers {
					if how != "" && cipher[p.ID] == "" {
						cipher[p.ID], s.Under[p.Name], changed = how, how, true
					}
				}
			}
		}
	}
	s.labels(&mesh, used)
	return s, nil
}

// labels finds, by the labels of partitions, which disks encrypted members are on and
// which of these are not open.
func (s *Encryption) labels(mesh *geomMesh, used map[string]bool) {
	name, disk := map[string]string{}, map[string]string{} // by provider ID, and the disk of a partition by its name
	for _, c := range mesh.Classes {
		for _, g := range c.Geoms {
			for _, p := range g.Providers {
				name[p.ID] = p.Name
				if c.Name == "PART" {
					disk[p.Name] = g.Name
				}
			}
		}
	}
	serial := map[string]string{} // by disk
	for _, c := range mesh.Classes {
		for _, g := range c.Geoms {
			for _, p := range g.Providers {
				role, of, _ := strings.Cut(strings.TrimPrefix(p.Name, "gpt/"), "-")
				if c.Name != "LABEL" || len(g.Consumers) != 1 {
					continue
				}
				part := name[g.Consumers[0].Provider.Ref]
				switch manifest.Role(role) {
				case manifest.RoleRig:
					serial[disk[part]] = of
				case manifest.RoleGELI:
					if !used[p.ID] && !used[g.Consumers[0].Provider.Ref] {
						s.Locked = append(s.Locked, part)
					}
				}
			}
		}
	}
	for provider := range s.Under {
		if part, ok := strings.CutSuffix(provider, ".eli"); ok && serial[disk[part]] != "" {
			s.Serials[provider] = serial[disk[part]]
		}
	}
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/answers/site"
)

const (
	pairOrigin  = "run --pair"
	pairDisks   = 4
	maxSerial   = 20 // bytes of a disk's serial number in QEMU
	pairSecrets = "site.secrets.toml"
)

// member is one server of the pair, as it is simulated.
type member struct {
	letter, name string
	macs         []string // of the cards, by network
	vlans        []uint16 // by network, 0 for none
	gateways     []netip.Addr
	serials      []string // of the disks
	packets      []manifest.Packet

	server *vm.Server
	up     chan struct{} // closed at its first login prompt
	ended  chan struct{} // closed when it was turned off
}

// pairSite is a site whose answers fit the machines of a simulation.
type pairSite struct{ *site.Site }

// imageManifest is that of an image. Sticks with answers are made of it, so it must be a
// disk.
func imageManifest(ctx context.Context, name string) (*manifest.Manifest, error) {
	i, err := reader.Open(ctx, name, reader.Options{})
	if err != nil {
		return nil, err
	}
	defer i.Close()
	if _, ok, err := i.Source(); err != nil || !ok {
		return nil, errors.Join(err, wrongForm(i, "run --pair takes an image of a disk", "\"rigimage build -o rig.img\" makes one"))
	}
	return i.Manifest, nil
}

// loadPairSite reads the site file, or the default profile's when the image is of
// that, and its secrets: those beside the site file, or those of an earlier run in the
// directory kept.
func loadPairSite(o pairOptions, m *manifest.Manifest) (*pairSite, error) {
	file, secrets := site.File{Name: "the default site.toml"}, site.File{}
	var err error
	if o.site == "" {
		if m.Name != builtin {
			return nil, diag.Hint(diag.Inputf("run --pair: no site file given, and the image is of profile %s", m.Name), "--site names the file with both servers' answers")
		}
		if file.Text, err = fs.ReadFile(overlay.Webrig(), siteName); err != nil {
			return nil, err
		}
	} else {
		file.Name, secrets.Name = o.site, secretsFile(o.site)
		if file.Text, err = os.ReadFile(o.site); err != nil {
			return nil, diag.Input(err)
		}
		if secrets.Text, err = readPrivate(secrets.Name); err != nil {
			return nil, err
		}
	}
	if secrets.Text == nil && o.keep != "" {
		secrets.Name = filepath.Join(o.keep, pairSecrets)
		if secrets.Text, err = readPrivate(secrets.Name); err != nil {
			return nil, err
		}
	}
	s, err := site.Load(file, secrets, m.Questions)
	if err != nil {
		return nil, err
	}
	if gaps := s.Gaps(); len(gaps) > 0 {
		var missing []string
		for _, g := range gaps {
			missing = append(missing, g.Server.Letter+"."+g.Question.Key)
		}
		return nil, diag.Inputf("%s: no answers to %s", file.Name, strings.Join(missing, ", "))
	}
	return &pairSite{s}, nil
}

// generate makes the secrets that are missing. Passwords are shown; with a
// directory that is kept, hashes and keys are stored there for the next run.
func (s *pairSite) generate(keep string, show func(text string)) error {
	passwords, err := s.Generate()
	if err != nil {
		return err
	}
	for _, p := range passwords {
		show(fmt.Sprintf("%s: %s, made for this run: %s", p.Server.Name, p.Key, p.Text.Reveal()))
	}
	if text := s.Secrets(); text != nil && keep != "" {
		return writePrivate(filepath.Join(keep, pairSecrets), text)
	}
	return nil
}

// newMember is the machine that the answers of server i describe.
func newMember(s *pairSite, reach manifest.Reach, i int) (*member, error) {
	v := &s.Servers[i]
	m := &member{letter: v.Letter, name: v.Name}
	fail := func(err error) error { return fmt.Errorf("run --pair: server %s: %w", m.name, err) }
	var err error
	if m.packets, err = reach.Packets([2]*answers.Set{s.Servers[0].Set, s.Servers[1].Set}, i); err != nil {
		return nil, fail(err)
	}
	type change struct {
		key   string
		value any
	}
	changes := []change{{answers.KeyUnattended, true}, {answers.KeyAfter, "reboot"}}
	for n, net := range reach.Networks {
		match, vlan, gateway := v.Set.NIC(net.NIC), uint16(v.Set.Int(net.VLAN)), v.Set.Addr(net.Gateway)
		switch {
		case net.Gateway != "" && !gateway.IsValid():
			return nil, fail(diag.Inputf("no answer to %s, which a pair is simulated by", net.Gateway))
		case net.Gateway != "" && vlan != 0:
			return nil, fail(diag.Inputf("%s is %d, and no gateway with a VLAN can be simulated", net.VLAN, vlan))
		}
		if match.MAC == "" {
			match.MAC = fmt.Sprintf("52:54:00:72:69:%02x", 0xa1+16*i+n)
		}
		if match.Device != "" {
			changes = append(changes, change{net.NIC, "mac:" + match.MAC})
		}
		m.macs, m.vlans, m.gateways = append(m.macs, match.MAC), append(m.vlans, vlan), append(m.gateways, gateway)
	}
	wish, changed := v.Set.Disks(answers.KeyDisks), false
	m.serials, changed = simulatedDisks(&wish)
	if changed {
		changes = append(changes, change{answers.KeyDisks, wish})
	}
	for _, c := range changes {
		if err := v.Set.SetFrom(c.key, c.value, pairOrigin); err != nil {
			return nil, fail(fmt.Errorf("%s: %w", c.key, err))
		}
	}
	return m, nil
}

// simulatedDisks are the serial numbers of the machine's disks: those the wish
// names, and more up to four. A disk it names otherwise gets a serial number.
func simulatedDisks(w *answers.DiskWish) (serials []string, changed bool) {
	const prefix = "serial:"
	name := func(names []string) []string {
		names = slices.Clone(names)
		for i, n := range names {
			serial, ok := strings.CutPrefix(n, prefix)
			if !ok || len(serial) > maxSerial {
				serial, changed = fmt.Sprintf("RIG-D%d", len(serials)+1), true
				names[i] = prefix + serial
			}
			serials = append(serials, serial)
		}
		return names
	}
	w.Mirror, w.Spares = name(w.Mirror), name(w.Spares)
	for len(serials) < pairDisks {
		serials = append(serials, fmt.Sprintf("RIG-D%d", len(serials)+1))
	}
	return serials, changed
}

// answers is the answers file for the member's stick.
func (m *member) answers(s *pairSite) ([]byte, error) {
	i := slices.IndexFunc(s.Servers[:], func(v site.Server) bool { return v.Letter == m.letter })
	var b bytes.Buffer
	err := s.WriteAnswers(&b, &s.Servers[i])
	return b.Bytes(), err
}

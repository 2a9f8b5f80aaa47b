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

	"rig/answers"
	"rig/answers/site"
	"rig/image/reader"
	"rig/internal/diag"
	"rig/overlay"
	"rig/vm"
)

// Questions of the default profile that a pair is simulated by.
const (
	keyXNIC     = "xnic.match"
	keyINIC     = "inic.match"
	keyAddress  = "xnic.inet"
	keyGateway  = "xnic.gateway"
	keyPrivate  = "inic.inet"
	keyVLAN     = "inic.vlan"
	keyNode     = "private.node"
	keyPG       = "private.pg"
	keyAdmins   = "peers.admin"
	keyOrch     = "peers.orch"
	pairOrigin  = "run --pair"
	pairDisks   = 4
	maxSerial   = 20 // bytes of a disk's serial number in QEMU
	pairSecrets = "site.secrets.toml"
)

// member is one server of the pair, as it is simulated.
type member struct {
	letter, name string
	set          *answers.Set
	macs         [2]string // of xnic and inic
	serials      []string  // of the disks
	address      netip.Prefix
	gateway      netip.Addr
	private      netip.Prefix // of the host on the private network
	node, pg     netip.Addr   // of the jails on it
	vlan         uint16
	admin        netip.Addr // who may use SSH

	server *vm.Server
	up     chan struct{} // closed at its first login prompt
	ended  chan struct{} // closed when it was turned off
}

// pairSite is a site whose answers fit the machines of a simulation.
type pairSite struct{ *site.Site }

// imageQuestions are what an image asks. Sticks with answers are made of it, so it
// must be a disk.
func imageQuestions(ctx context.Context, name string) ([]answers.Question, error) {
	i, err := reader.Open(ctx, name, reader.Options{})
	if err != nil {
		return nil, err
	}
	defer i.Close()
	if _, ok, err := i.Source(); err != nil || !ok {
		return nil, errors.Join(err, wrongForm(i, "run --pair takes an image of a disk", "\"rigimage build -o rig.img\" makes one"))
	}
	return i.Manifest.Questions, nil
}

// loadPairSite reads the site file, or the default profile's, and its secrets: those
// beside the site file, or those of an earlier run in the directory kept.
func loadPairSite(o pairOptions, questions []answers.Question) (*pairSite, error) {
	file, secrets := site.File{Name: "the default site.toml"}, site.File{}
	var err error
	if o.site == "" {
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
	s, err := site.Load(file, secrets, questions)
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
func newMember(s *pairSite, i int) (*member, error) {
	v := &s.Servers[i]
	m := &member{letter: v.Letter, name: v.Name, set: v.Set,
		address: v.Set.Prefix(keyAddress), gateway: v.Set.Addr(keyGateway), private: v.Set.Prefix(keyPrivate),
		node: v.Set.Addr(keyNode), pg: v.Set.Addr(keyPG), vlan: uint16(v.Set.Int(keyVLAN))}
	for _, key := range []string{keyAddress, keyGateway, keyPrivate, keyNode, keyPG} {
		if _, ok := v.Set.Get(key); !ok {
			return nil, diag.Inputf("run --pair: server %s: no answer to %s, which a pair is simulated by", m.name, key)
		}
	}
	type change struct {
		key   string
		value any
	}
	changes := []change{{answers.KeyUnattended, true}, {answers.KeyAfter, "reboot"}}
	for n, key := range []string{keyXNIC, keyINIC} {
		match := v.Set.NIC(key)
		if m.macs[n] = match.MAC; match.MAC == "" {
			m.macs[n] = fmt.Sprintf("52:54:00:72:69:%02x", 0xa1+16*i+n)
		}
		if match.Device != "" {
			changes = append(changes, change{key, "mac:" + m.macs[n]})
		}
	}
	wish, changed := v.Set.Disks(answers.KeyDisks), false
	m.serials, changed = simulatedDisks(&wish)
	if changed {
		changes = append(changes, change{answers.KeyDisks, wish})
	}
	for _, c := range changes {
		if err := v.Set.SetFrom(c.key, c.value, pairOrigin); err != nil {
			return nil, fmt.Errorf("run --pair: server %s: %s: %w", m.name, c.key, err)
		}
	}
	if m.admin = firstAdmin(v.Set, m); !m.admin.IsValid() {
		return nil, diag.Inputf("run --pair: server %s: no address in %s or %s to try SSH from", m.name, keyAdmins, keyOrch)
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

// firstAdmin is an address of an administrator or an orchestration host.
func firstAdmin(set *answers.Set, m *member) netip.Addr {
	for _, p := range set.Prefixes(keyAdmins) {
		a := p.Addr()
		for n := 0; n < 8 && p.Bits() < 31; n++ { // not the network's own address
			a = a.Next()
		}
		if !p.Contains(a) {
			a = p.Addr().Next()
		}
		if a != m.gateway && a != m.address.Addr() && p.Contains(a) {
			return a
		}
	}
	for _, a := range set.Addrs(keyOrch) {
		return a
	}
	return netip.Addr{}
}

// answers is the answers file for the member's stick.
func (m *member) answers(s *pairSite) ([]byte, error) {
	i := slices.IndexFunc(s.Servers[:], func(v site.Server) bool { return v.Letter == m.letter })
	var b bytes.Buffer
	err := s.WriteAnswers(&b, &s.Servers[i])
	return b.Bytes(), err
}

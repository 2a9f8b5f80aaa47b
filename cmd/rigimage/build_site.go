package main

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/answers/site"
)

// originAppliance is where answers come from that only fit an appliance.
const originAppliance = "build --site"

// checkMedia finds flags that do not go with each other.
func checkMedia(o *image.Options, outputs []string, sitePath string) error {
	ova := func(name string) bool { return filepath.Ext(name) == ".ova" }
	const example = "rigimage build --site site.toml -o a.ova,b.ova"
	switch {
	case sitePath != "" && o.AnswersName != "":
		return diag.Hint(diag.Inputf("--site and --answers: each appliance has the answers of its server"), "leave out --answers")
	case o.AnswersName != "" && slices.ContainsFunc(outputs, media.IsDirectory):
		return diag.Hint(diag.Inputf("--answers %s: a directory for network boot holds none, as everyone could read them there", o.AnswersName),
			"give each machine its own with \"rigimage serve --answers DIR\" or --answers-url")
	case sitePath != "" && len(outputs) != 2:
		return diag.Hint(diag.Inputf("--site: -o names %d, and a site has two servers", len(outputs)), example)
	case sitePath != "" && !(ova(outputs[0]) && ova(outputs[1])):
		return diag.Hint(diag.Inputf("--site: %s: only appliances are made for both servers at once, and their names end in .ova",
			outputs[slices.IndexFunc(outputs, func(name string) bool { return !ova(name) })]),
			"%s; for an image of one server: rigimage answers site.toml, then build --answers", example)
	}
	flag := map[bool]string{true: "--bios"}[o.Appliance.BIOS]
	if o.Appliance.Bridge != "" {
		flag = "--bridge"
	}
	if flag != "" && !slices.ContainsFunc(outputs, ova) {
		return diag.Hint(diag.Inputf("%s: there is no .ova among the files to write", flag), "a raw image boots by BIOS and by UEFI, on whatever network")
	}
	return nil
}

// buildSite makes o build the appliances of a site's servers. Secrets that are
// missing are made, stored and shown.
func buildSite(o *image.Options, file string, args []string, asJSON bool, std cli.Stdio) (err error) {
	dir := ""
	if len(args) > 0 {
		dir = args[0]
	}
	if o.Profile, o.ProfileName, err = siteProfile(file, dir); err != nil {
		return err
	}
	s, cfg, err := openSite(file, dir)
	if err != nil {
		return err
	}
	o.Servers = make([]media.Server, len(s.Servers))
	for i := range s.Servers {
		v := &o.Servers[i]
		v.Appliance = o.Appliance
		if err := fitAppliance(&s.Servers[i], cfg.Questions, &v.Appliance); err != nil {
			return err
		}
	}
	if err := s.CheckUnattended(); err != nil {
		return err
	}
	warnExampleKeys(s, std)
	passwords, err := s.Generate()
	if err != nil {
		return err
	}
	for i := range s.Servers {
		var b bytes.Buffer
		if err := s.WriteAnswers(&b, &s.Servers[i]); err != nil {
			return err
		}
		o.Servers[i].Answers, o.Servers[i].AnswersName = b.Bytes(), "answers of "+s.Servers[i].Name
	}
	secrets := secretsFile(file)
	if text := s.Secrets(); text != nil {
		if err := writePrivate(secrets, text); err != nil {
			return fmt.Errorf("write secrets: %w", err)
		}
		fmt.Fprintf(std.Err, "%s: secrets that were made; keep it\n", secrets)
	}
	to := std.Out
	if asJSON {
		to = std.Err
	}
	return showPasswords(to, passwords, cfg, secrets)
}

// fitAppliance changes a server's answers to what its appliance has, and gives the
// appliance the server's name and addresses. The first network card asked for is
// the public one.
func fitAppliance(v *site.Server, qs []answers.Question, a *media.Appliance) error {
	a.Name = v.Name
	type change struct {
		key   string
		value any
	}
	d := media.ApplianceDisks
	changes := []change{{answers.KeyUnattended, true}, {answers.KeyAfter, "reboot"},
		{answers.KeyDisks, answers.DiskWish{Mirror: d[:2], Spares: d[2:], Swap: v.Set.Disks(answers.KeyDisks).Swap}}}
	cards := 0
	for _, q := range qs {
		if q.Type != answers.NIC || q.List {
			continue
		}
		if cards == len(media.ApplianceNICs) {
			return diag.Inputf("--site: %s: an appliance has %d network cards, and the profile asks for more", q.Key, cards)
		}
		if mac := v.Set.NIC(q.Key).MAC; mac != "" {
			hw, err := net.ParseMAC(mac)
			if err != nil {
				return err
			}
			a.MACs[cards] = hw
		}
		changes = append(changes, change{q.Key, media.ApplianceNICs[cards]})
		cards++
	}
	for _, c := range changes {
		if err := v.Set.SetFrom(c.key, c.value, originAppliance); err != nil {
			return fmt.Errorf("--site: server %s: %s: %w", v.Name, c.key, err)
		}
	}
	return nil
}

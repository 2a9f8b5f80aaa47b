package health

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
)

// jailConf is what jail.conf says of one jail.
type jailConf struct {
	name       string
	path       string
	vnet       bool
	interfaces []string // of vnet.interface
}

// runningJail is a jail as jls(8) lists it.
type runningJail struct {
	Name string `json:"name"`
	Path string `json:"path"`
	VNET string `json:"vnet"` // "new" is a network stack of its own
}

// checkJails compares the jails that run with jail.conf and the manifest.
func (v *verifier) checkJails(ctx context.Context) []Check {
	r := &rows{area: "jails"}
	// A tab between parameters: no value of ours holds one, and a jail is a line.
	conf, err := v.output(ctx, "jail", "-f", "/etc/jail.conf", "-e", "\t")
	if err == nil {
		v.jails, err = parseJailConf(conf)
	}
	if err != nil {
		r.fail("jail.conf", err)
		return r.list
	}
	out, err := v.output(ctx, "jls", "--libxo", "json", "-n", "name", "path", "vnet")
	if err != nil {
		r.fail("jails", err)
		return r.list
	}
	have, err := parseJls(out)
	if err != nil {
		r.fail("jails", err)
		return r.list
	}
	for _, j := range have {
		v.up[j.Name] = true
	}
	compareJails(r, v.m.Jails, v.jails, have)
	return r.list
}

// parseJailConf reads the output of jail -e with tabs between the parameters
// (FreeBSD 15.1 usr.sbin/jail/jail.c, print_jail): a line for each jail, in the
// order of the file.
func parseJailConf(text string) ([]jailConf, error) {
	var out []jailConf
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		var j jailConf
		for param := range strings.SplitSeq(line, "\t") {
			name, value, _ := strings.Cut(param, "=")
			switch name {
			case "name":
				j.name = value
			case "path":
				j.path = value
			case "vnet":
				j.vnet = value == "" || value == "new"
			case "vnet.interface":
				for n := range strings.SplitSeq(value, ",") {
					j.interfaces = append(j.interfaces, strings.Trim(n, `"`))
				}
			}
		}
		if j.name == "" {
			return nil, fmt.Errorf("output of jail -e: %q names no jail", line)
		}
		out = append(out, j)
	}
	return out, nil
}

// parseJls reads the output of jls --libxo json, in the order the jails started.
func parseJls(text string) ([]runningJail, error) {
	var out struct {
		Info *struct {
			Jail []runningJail `json:"jail"`
		} `json:"jail-information"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("output of jls: %w", err)
	}
	if out.Info == nil {
		return nil, fmt.Errorf("output of jls: no jail-information")
	}
	for _, j := range out.Info.Jail {
		if j.Name == "" || j.Path == "" {
			return nil, fmt.Errorf("output of jls: a jail has no name or path")
		}
	}
	return out.Info.Jail, nil
}

// compareJails adds a row for each jail and one for their order.
func compareJails(r *rows, wish []manifest.Jail, conf []jailConf, have []runningJail) {
	for _, w := range wish {
		if !slices.ContainsFunc(conf, func(c jailConf) bool { return c.name == w.Name }) {
			r.add(w.Name, Failed, "it belongs to the image and is not in /etc/jail.conf", "")
		}
	}
	var order, started []string
	for _, c := range conf {
		i := slices.IndexFunc(have, func(h runningJail) bool { return h.Name == c.name })
		if i < 0 {
			r.add(c.name, Failed, "it does not run", "service jail start "+c.name)
			continue
		}
		order = append(order, c.name)
		var bad []string
		if have[i].Path != c.path {
			bad = append(bad, fmt.Sprintf("its root is %s, not %s", have[i].Path, c.path))
		}
		own := have[i].VNET == "new" || have[i].VNET == "1"
		if own != c.vnet {
			bad = append(bad, fmt.Sprintf("vnet is %q; jail.conf wants a network stack of its own: %t", have[i].VNET, c.vnet))
		}
		fine := "runs in " + c.path
		if own {
			fine += " with a network stack of its own"
		}
		r.judge(c.name, bad, fine, "service jail restart "+c.name)
	}
	for _, h := range have {
		if slices.ContainsFunc(conf, func(c jailConf) bool { return c.name == h.Name }) {
			started = append(started, h.Name)
		} else {
			r.add(text.Printable(h.Name), Warning, "it runs and is not in /etc/jail.conf", "")
		}
	}
	switch {
	case len(order) < 2:
	case slices.Equal(order, started):
		r.ok("order", "started as in jail.conf: %s", strings.Join(started, ", "))
	default:
		r.add("order", Warning, fmt.Sprintf("started %s; jail.conf says %s", strings.Join(started, ", "), strings.Join(order, ", ")),
			"service jail restart, when a pause of all jails is acceptable")
	}
}

// checkServices asks every service the image expects to run, on the host and in
// the jails.
func (v *verifier) checkServices(ctx context.Context) []Check {
	r := &rows{area: "services"}
	host := slices.Clone(v.m.Host.Services)
	if v.status != nil && len(v.status.Spares) > 0 && !slices.Contains(host, "zfsd") {
		host = append(host, "zfsd") // without it no spare stands in
	}
	for _, s := range host {
		v.checkService(ctx, r, "", s)
	}
	for _, j := range v.m.Jails {
		if len(j.Services) > 0 && !v.up[j.Name] {
			r.skip(j.Name, "the jail does not run")
			continue
		}
		for _, s := range j.Services {
			v.checkService(ctx, r, j.Name, s)
		}
	}
	return r.list
}

// checkPackages asks pkg(8) whether each root has the packages the image brought.
func (v *verifier) checkPackages(ctx context.Context) []Check {
	r := &rows{area: "packages"}
	roots := append([]manifest.Jail{{Packages: v.m.Host.Packages}}, v.m.Jails...)
	for _, j := range roots {
		if len(j.Packages) == 0 {
			continue
		}
		check, argv := "host", []string{"pkg"}
		if j.Name != "" {
			check, argv = j.Name, []string{"pkg", "-c", "/jails/" + j.Name}
		}
		out, err := v.output(ctx, append(argv, "query", "%n")...)
		if err != nil {
			r.fail(check, err)
			continue
		}
		have := strings.Fields(out)
		if gone := without(j.Packages, have); len(gone) > 0 {
			r.add(check, Failed, "not installed: "+text.Listing(gone), run.Quote(append(append(argv, "install"), gone...)))
		} else {
			r.ok(check, "%d installed, among them all %d of the image", len(have), len(j.Packages))
		}
	}
	return r.list
}

func (v *verifier) checkService(ctx context.Context, r *rows, jail, name string) {
	where, argv := "host", []string{"service"}
	if jail != "" {
		where, argv = jail, []string{"service", "-j", jail}
	}
	_, err := v.output(ctx, append(argv, name, "onestatus")...)
	switch {
	case err == nil:
		r.ok(where+" "+name, "runs")
	case exited(err):
		r.add(where+" "+name, Failed, "it does not run", run.Quote(append(argv, name, "start")))
	default:
		r.fail(where+" "+name, err)
	}
}

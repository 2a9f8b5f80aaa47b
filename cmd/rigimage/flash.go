package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/image/flash"
	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/prompt"
	"github.com/rig-freebsd/rig/overlay/answers"
)

const flashUsage = `usage: rigimage flash IMAGE DISK [--answers FILE] [--force-serial SERIAL] [--yes]
       rigimage flash --from URL DISK …
       rigimage flash IMAGE DISK --ssh user@host [--program FILE] …
       rigimage flash --list [--ssh user@host] [--json]

Writes an image onto a disk, reads everything back, and makes the disk bootable last:
until then, and after an error or Ctrl-C, it has no partition table.

IMAGE is a file: .img, also compressed by zstd, gzip or xz, .vmdk, .vdi, .qcow2, or
.ova, whose first disk is written; "-" is the standard input, for .img only.
DISK is a device, serial:NUMBER, or a file. A disk that is mounted, swap, or part of an
array, a volume group or a pool is refused. It counts as blank when nothing is recognised
on it and its first and last 64 MiB and 4096 samples between them are one repeated byte.

  --from URL             download the image, resumed; compared with URL.sha256 if that is there
  --answers FILE         put these answers on the disk's ESP, for an unattended install
  --ssh HOST             the disk is on that machine: rigimage is copied there by ssh, runs
                         there with the image as its input, and is removed
  --program FILE         the rigimage to copy, for a machine of another kind
  --force-serial SERIAL  write although the disk is in use or holds anything; for one without a serial
                         number, the name that --list shows instead
  --yes                  do not ask; a disk that is not blank needs --force-serial too
  --size SIZE            make DISK, a file, of this size
  --list                 show the disks and what is on them
  --json                 print the result, or the list, as JSON

example: rigimage flash server-a.img serial:S3Z9NB0K --ssh root@203.0.113.7 --answers rega.toml
`

type flashFlags struct {
	from, answers, host, program, force, size *string
	yes, list, asJSON                         *bool
}

func flashDisk(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(flashUsage)
	f := flashFlags{from: fl.String("from", "", ""), answers: fl.String("answers", "", ""), host: fl.String("ssh", "", ""),
		program: fl.String("program", "", ""), force: fl.String("force-serial", "", ""), size: fl.String("size", "", ""),
		yes: fl.Bool("yes", false, ""), list: fl.Bool("list", false, ""), asJSON: fl.Bool("json", false, "")}
	stdin := slices.Contains(args, "-") // flag.Parse takes it for an argument too
	rest, err := cli.Parse(fl, args, 2)
	if err != nil {
		return err
	}
	if *f.program != "" && *f.host == "" {
		return diag.Inputf("--program is for --ssh")
	}
	progress := cli.NewProgress(std.Err)
	defer progress.Done()
	j := &flashJob{flashFlags: f, std: std, progress: progress}
	defer func() {
		if j.made != "" {
			os.Remove(j.made)
		}
	}()
	if *f.host != "" {
		j.remote, err = flash.Dial(ctx, flash.RemoteOptions{Host: *f.host, Program: *f.program, Progress: progress.Report})
		if err != nil {
			return err
		}
		defer j.remote.Close()
	}
	if *f.list {
		return j.list(ctx, rest)
	}
	want := 2
	if *f.from != "" {
		want = 1
	}
	if len(rest) != want {
		return diag.Hint(diag.Inputf("expected %s", []string{"", "DISK", "IMAGE and DISK"}[want]),
			"\"rigimage flash --list\" shows the disks, --help an example")
	}
	o := flash.Options{Force: *f.force, Progress: progress.Report}
	if *f.answers != "" {
		o.AnswersName = *f.answers
		if o.Answers, err = os.ReadFile(*f.answers); err != nil {
			return diag.Input(err)
		}
	}
	if o.Disk, err = j.disk(ctx, rest[len(rest)-1]); err != nil {
		return err
	}
	switch {
	case *f.from != "":
		im, file, err := j.download(ctx)
		if err != nil {
			return err
		}
		defer func() {
			if j.done {
				os.Remove(file)
			}
		}()
		var opened io.Closer
		o.Image, opened, err = flashImage(ctx, file, func(string) (*flash.Image, error) { return im, nil }, std)
		defer opened.Close()
		if err != nil {
			return err
		}
	case stdin && rest[0] == "-":
		if *f.host != "" {
			return diag.Inputf("with --ssh the image must be a file or a URL")
		}
		if !*f.yes {
			return diag.Hint(diag.Inputf("the image comes from the standard input, so nothing can be asked"), "say --yes")
		}
		o.Image = flash.Stream("(standard input)", std.In)
	default:
		var opened io.Closer
		o.Image, opened, err = flashImage(ctx, rest[0], flash.File, std)
		defer opened.Close()
	}
	if err != nil {
		return err
	}
	return j.flash(ctx, o)
}

// flashJob is one call of rigimage flash.
type flashJob struct {
	flashFlags
	std      cli.Stdio
	progress *cli.Progress
	remote   *flash.Remote
	made     string // by --size, and not written to yet
	done     bool
}

func (j *flashJob) download(ctx context.Context) (*flash.Image, string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return flash.Download(ctx, flash.DownloadOptions{URL: *j.from, Dir: filepath.Join(cache, "rig", "flash"), Progress: j.progress.Report,
		Logf: func(format string, a ...any) { fmt.Fprintf(j.std.Err, format+"\n", a...) }})
}

func (j *flashJob) disk(ctx context.Context, name string) (*disks.Disk, error) {
	if j.remote != nil {
		j.progress.Report("look at "+name+" on "+j.remote.Host, 0, 0)
		return j.remote.Find(ctx, name)
	}
	if *j.size != "" {
		v, err := answers.ParseText(&answers.Question{Key: "--size", Type: answers.Size}, *j.size)
		if err != nil {
			return nil, diag.Inputf("--size %s: %w", *j.size, err)
		}
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			return nil, diag.Hint(diag.Input(err), "without --size it is written as it is")
		}
		if err != nil {
			return nil, diag.Input(err)
		}
		j.made = name
		if err := errors.Join(f.Truncate(v.(int64)), f.Close()); err != nil {
			return nil, err
		}
	}
	return disks.Find(ctx, name, j.progress.Report)
}

func (j *flashJob) flash(ctx context.Context, o flash.Options) error {
	plan, err := flash.Prepare(ctx, o)
	j.progress.Done()
	if err != nil {
		return err
	}
	defer plan.Close()
	fmt.Fprint(j.std.Err, plan)
	if err := j.confirm(ctx, plan); err != nil {
		return err
	}
	start := time.Now()
	if j.remote != nil {
		var more []string
		if *j.asJSON {
			more = append(more, "--json")
		}
		out, errs := &betweenProgress{w: j.std.Out, p: j.progress}, &betweenProgress{w: j.std.Err, p: j.progress}
		if err := j.remote.Flash(ctx, plan, out, errs, more...); err != nil {
			return err
		}
		j.done = true
		return nil
	}
	j.made = ""
	res, err := plan.Write(ctx)
	j.progress.Done()
	if err != nil {
		return err
	}
	j.done = true
	if *j.asJSON {
		return printJSON(j.std.Out, res)
	}
	fmt.Fprintf(j.std.Out, "%s: image %s, %d MiB written and read back, %d MiB of them zeros, %.1f s\n", res.Disk, res.Image,
		res.Bytes>>20, (res.Bytes-res.Written)>>20, time.Since(start).Seconds())
	if res.Answers {
		fmt.Fprintln(j.std.Out, "contains answers: the ESP has rig/answers.toml, which may hold secrets")
	}
	return nil
}

// confirm asks once, for the disk's serial number when anything is lost.
func (j *flashJob) confirm(ctx context.Context, p *flash.Plan) error {
	id := p.Disk.ID()
	if *j.yes {
		if p.Disk.Blank() || *j.force == id {
			return nil
		}
		return diag.Hint(diag.Inputf("%s: it is not empty, and --yes says nothing of which disk is meant", p.Disk.Path), "--force-serial %s", id)
	}
	out, ok := j.std.Out.(*os.File)
	if !ok {
		return diag.Hint(diag.Inputf("there is no terminal to ask on"), "--yes does not ask")
	}
	word, label := "yes", "Write the image onto "+p.Disk.Path+"?"
	if !p.Disk.Blank() {
		word, label = id, "Write the image onto "+p.Disk.Path+"? All of the above will be lost."
	}
	sure, err := prompt.New(j.std.In, out, j.std.Getenv).Confirm(ctx, label, word)
	if errors.Is(err, io.EOF) {
		return diag.Hint(diag.Inputf("the input ended before it was confirmed; nothing was written"), "--yes does not ask")
	}
	if err != nil {
		return err
	}
	if !sure {
		return diag.Inputf("not confirmed; nothing was written")
	}
	return nil
}

func (j *flashJob) list(ctx context.Context, names []string) error {
	var found []disks.Disk
	var err error
	switch {
	case len(names) > 0:
		for _, n := range names {
			d, err := j.disk(ctx, n)
			if err != nil {
				return err
			}
			found = append(found, *d)
		}
	case j.remote != nil:
		j.progress.Report("look at the disks of "+j.remote.Host, 0, 0)
		found, err = j.remote.List(ctx)
	default:
		found, err = disks.List(ctx, j.progress.Report)
	}
	j.progress.Done()
	if err != nil {
		return err
	}
	if *j.asJSON {
		if found == nil {
			found = []disks.Disk{}
		}
		return printJSON(j.std.Out, found)
	}
	for i := range found {
		d := &found[i]
		fmt.Fprintln(j.std.Out, d)
		for _, s := range slices.Concat(d.InUse, d.Member) {
			fmt.Fprintln(j.std.Out, "    IN USE", s)
		}
		for _, s := range d.Holds {
			fmt.Fprintln(j.std.Out, "   ", s)
		}
		if d.Blank() {
			fmt.Fprintf(j.std.Out, "    blank (%s)\n", d.Basis)
		}
	}
	if len(found) == 0 {
		fmt.Fprintln(j.std.Out, "no disks")
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

// betweenProgress prints another program's lines and keeps this one's line of
// progress apart.
type betweenProgress struct {
	mu sync.Mutex
	w  io.Writer
	p  *cli.Progress
}

// Write implements io.Writer.
func (b *betweenProgress) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.p.Done()
	return b.w.Write(p)
}

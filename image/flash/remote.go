package flash

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Remote is another machine, reached by the user's own ssh(1), with a copy of
// rigimage on it for as long as it is open.
type Remote struct {
	Host string
	ssh  []string // ssh and its options
	tmp  string   // here: the socket of the shared connection
	dir  string   // there: rigimage, and answers
}

// RemoteOptions of Dial.
type RemoteOptions struct {
	Host     string // as for ssh
	Program  string // rigimage for that machine; "" is the running one
	Progress func(what string, done, total int64)
}

// Dial connects, and copies rigimage into a new directory that only its user can
// enter. Close removes it.
func Dial(ctx context.Context, o RemoteOptions) (*Remote, error) {
	if strings.HasPrefix(o.Host, "-") || o.Host == "" {
		return nil, diag.Inputf("--ssh %q: expected a machine's name as for ssh", o.Host)
	}
	tmp, err := os.MkdirTemp("", "rigssh") // short: socket names are limited to some 100 bytes
	if err != nil {
		return nil, err
	}
	r := &Remote{Host: o.Host, tmp: tmp, ssh: []string{"ssh", "-o", "ControlMaster=auto", "-o", "ControlPath=" + filepath.Join(tmp, "c"),
		"-o", "ControlPersist=60", "-o", "ServerAliveInterval=15"}}
	if err := r.setUp(ctx, o); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Remote) setUp(ctx context.Context, o RemoteOptions) error {
	out, err := r.sh(ctx, "uname -sm", nil)
	if err != nil {
		return err
	}
	program := o.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	if err := fits(program, strings.TrimSpace(string(out)), o.Program != ""); err != nil {
		return diag.Input(fmt.Errorf("%s: %w", r.Host, err))
	}
	if out, err = r.sh(ctx, "umask 077 && mktemp -d /tmp/rigimage.XXXXXXXX", nil); err != nil {
		return err
	}
	dir := strings.TrimSpace(string(out))
	if !strings.HasPrefix(dir, "/tmp/rigimage.") || strings.ContainsAny(dir, " \n'") {
		return fmt.Errorf("%s: mktemp answered %q", r.Host, dir)
	}
	r.dir = dir
	f, err := os.Open(program)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	pr, pw := io.Pipe()
	defer pr.Close()
	go func() {
		z, _ := gzip.NewWriterLevel(pw, gzip.BestSpeed)
		_, err := io.Copy(z, &counter{r: f, total: st.Size(), what: "copy rigimage to " + r.Host, report: o.Progress})
		pw.CloseWithError(errors.Join(err, z.Close()))
	}()
	p := dir + "/rigimage"
	_, err = r.sh(ctx, "umask 077 && gzip -dc > "+p+" && chmod 700 "+p+" && "+p+" --version", pr)
	return err
}

// platforms maps uname -sm to GOOS and GOARCH.
var platforms = map[string]string{
	"Linux x86_64": "linux/amd64", "Linux aarch64": "linux/arm64", "FreeBSD amd64": "freebsd/amd64", "FreeBSD arm64": "freebsd/arm64",
	"Darwin arm64": "darwin/arm64", "Darwin x86_64": "darwin/amd64",
}

// fits reports why a rigimage cannot run on a machine that says uname of itself.
func fits(program, uname string, chosen bool) error {
	want, ok := platforms[uname]
	if !ok {
		return fmt.Errorf("it is a %s, which rigimage is not made for", uname)
	}
	goos, goarch, _ := strings.Cut(want, "/")
	build := fmt.Sprintf("CGO_ENABLED=0 GOOS=%s GOARCH=%s go build -o rigimage-%s-%s ./cmd/rigimage, then --program rigimage-%[1]s-%[2]s", goos, goarch, goos, goarch)
	have := runtime.GOOS + "/" + runtime.GOARCH
	if f, err := elf.Open(program); err == nil {
		defer f.Close()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				return diag.Hint(fmt.Errorf("%s is not static and may lack its libraries there", program), "%s", build)
			}
		}
		if chosen { // of a file only the machine is seen; its first run will tell the rest
			have = goos + "/" + map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}[f.Machine]
		}
	} else if chosen {
		return fmt.Errorf("%s: %w", program, err)
	}
	if have != want {
		return diag.Hint(fmt.Errorf("it is a %s, %s is for %s", want, filepath.Base(program), have), "%s", build)
	}
	return nil
}

// command is ssh with a line for the shell of the other machine.
func (r *Remote) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.ssh[0], append(r.ssh[1:len(r.ssh):len(r.ssh)], "--", r.Host, line)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// sh runs a line there and returns its output.
func (r *Remote) sh(ctx context.Context, line string, in io.Reader) ([]byte, error) {
	var out, complaints bytes.Buffer
	cmd := r.command(ctx, line)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &complaints
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if text := strings.TrimSpace(complaints.String()); text != "" {
		err = errors.New(text)
	}
	err = fmt.Errorf("ssh %s: %w", r.Host, err)
	return nil, diag.Hint(err, "\"ssh %s true\" must work, and sh, mktemp and gzip be there", r.Host)
}

// List returns the disks there.
func (r *Remote) List(ctx context.Context) ([]disks.Disk, error) {
	out, err := r.sh(ctx, r.dir+"/rigimage flash --list --json", nil)
	if err != nil {
		return nil, err
	}
	var disks []disks.Disk
	if err := json.Unmarshal(out, &disks); err != nil {
		return nil, fmt.Errorf("list the disks of %s: %w", r.Host, err)
	}
	return disks, nil
}

// Find returns the disk there that a path or "serial:NUMBER" names.
func (r *Remote) Find(ctx context.Context, name string) (*disks.Disk, error) {
	out, err := r.sh(ctx, r.dir+"/rigimage flash --list --json "+run.Quote([]string{name}), nil)
	if err != nil {
		return nil, err
	}
	var disks []disks.Disk
	if err := json.Unmarshal(out, &disks); err != nil || len(disks) != 1 {
		return nil, fmt.Errorf("find %s on %s: got %d disks: %w", name, r.Host, len(disks), err)
	}
	return &disks[0], nil
}

// Flash has rigimage there write p, whose disk is there. p must be of an image
// in a file.
func (r *Remote) Flash(ctx context.Context, p *Plan, stdout, stderr io.Writer, more ...string) error {
	args := []string{r.dir + "/rigimage", "flash", "-", p.Disk.Path, "--yes", "--force-serial", p.Disk.ID()}
	if p.o.Answers != nil {
		file := r.dir + "/answers.toml"
		if _, err := r.sh(ctx, "umask 077 && cat > "+file, bytes.NewReader(p.o.Answers)); err != nil {
			return err
		}
		args = append(args, "--answers", file)
	}
	args = append(args, more...)
	in, err := p.o.Image.send("send to "+r.Host, p.o.Progress)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd := r.command(ctx, run.Quote(args))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	err = cmd.Run()
	if ctx.Err() != nil {
		return diag.Hint(fmt.Errorf("interrupted: %s on %s is not finished; what was written to has no partition table", p.Disk.Path, r.Host), "%s", againHint)
	}
	if err != nil {
		return fmt.Errorf("flash %s on %s: %w; what it says is above", p.Disk.Path, r.Host, err)
	}
	return nil
}

// Close removes what Dial put there, even after an interrupt, and ends the
// connection.
func (r *Remote) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if r.dir != "" {
		_, err = r.sh(ctx, "rm -rf "+r.dir, nil)
	}
	stop := exec.CommandContext(ctx, r.ssh[0], append(r.ssh[1:len(r.ssh):len(r.ssh)], "-O", "exit", "--", r.Host)...)
	stop.Run() // there may be no shared connection
	return errors.Join(err, os.RemoveAll(r.tmp))
}

// send is the file of an image as it goes over a network: compressed, if it is not
// yet.
func (im *Image) send(what string, progress func(string, int64, int64)) (io.ReadCloser, error) {
	r, err := im.open()
	if err != nil {
		return nil, err
	}
	if r.plain == nil {
		r.Close()
		return im.count(what, progress)
	}
	pr, pw := io.Pipe()
	go func() {
		defer r.Close()
		pw.CloseWithError(pack(pw, *r.plain, what, progress))
	}()
	return pr, nil
}

// count is the file as it is, counted.
func (im *Image) count(what string, progress func(string, int64, int64)) (io.ReadCloser, error) {
	f, err := os.Open(im.file)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{&counter{r: f, total: st.Size(), what: what, report: progress}, f}, nil
}

// pack compresses a disk; its holes are not read.
func pack(w io.Writer, src vdisk.Source, what string, progress func(string, int64, int64)) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	b := make([]byte, 1<<20)
	for off := int64(0); off < src.Size; off += int64(len(b)) {
		b = b[:min(int64(len(b)), src.Size-off)]
		err := src.Read(b, off)
		if err == nil {
			_, err = z.Write(b)
		}
		if err != nil {
			z.Close()
			return err
		}
		progress(what, off+int64(len(b)), src.Size)
	}
	return z.Close()
}

// counter reports what is read.
type counter struct {
	r           io.Reader
	done, total int64
	what        string
	report      func(what string, done, total int64)
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.report != nil {
		c.report(c.what, c.done, c.total)
	}
	return n, err
}

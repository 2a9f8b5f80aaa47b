package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
)

const verifyUsage = `usage: rigimage verify IMAGE [--json]

Checks all of an image: that its id is that of its content, the hash of every layer
and boot file, both copies of the partition table, the file systems, the boot code of
sector 0, of the boot partition and of the ESP by the bundle's own copies, sums and
structure of .img.zst, .vmdk, .vdi, .qcow2 and .ova, and the space that nothing uses.
It lists what no hash covers, since it differs between media of one image: the switch
and answers, of which only is said that they are there.

IMAGE is in any form that build writes, a directory for network boot, a disk that it
was written to, or the URL of one of them.

It does not say who built the image: whoever can change an image can give it another
id. Compare the id with the one that build printed.

  --json   print every check as JSON

example: rigimage verify rig.ova

Exit status: 0 everything is as it was built, 1 it is not, 2 bad usage or no image.
`

func verify(ctx context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(verifyUsage)
	asJSON := fl.Bool("json", false, "")
	rest, err := cli.Parse(fl, args, 1)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return diag.Hint(diag.Inputf("no image given"), "rigimage verify rig.img")
	}
	v, err := verifyImage(ctx, rest[0], true, std)
	var bad *reader.DamagedError
	if errors.As(err, &bad) { // the result, and no mistake of the user's
		return diag.Hint(errors.New(err.Error()), "%s", diag.HintOf(err))
	}
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(std.Out, v)
	} else {
		printVerification(std.Out, v)
	}
	if err == nil {
		err = damaged(v)
	}
	return err
}

func printVerification(out io.Writer, v *reader.Verification) {
	fmt.Fprintf(out, "%s: %s, image %s\n", v.Path, v.Form, v.Image)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	word := map[reader.Result]string{reader.OK: "ok", reader.Bad: "DAMAGED", reader.Note: "note", reader.None: "-"}
	for _, c := range v.Checks {
		for _, text := range c.Text {
			fmt.Fprintf(w, "%s\t%s\t%s\n", word[c.Result], c.What, strings.ReplaceAll(text, "\n", "; "))
		}
	}
	for _, o := range v.Outside {
		fmt.Fprintf(w, "no hash\t%s\t%s\n", o.Path, o.Text)
	}
	w.Flush()
	if len(v.Problems) == 0 {
		fmt.Fprintln(out, "all hashes match")
	}
}

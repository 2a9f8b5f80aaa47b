package flash

import (
	"bytes"
	"fmt"
	"io"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/ufs"
)

// mark gives the disk an id of its own as a medium, in the one block of the rig
// partition that no hash covers: its switch. An installer that finds two disks with one
// image knows by it which of them it was booted from.
func (p *Plan) mark(dev device, disk io.ReaderAt) error {
	rig := p.parts[rigPart]
	fsys, err := ufs.Open(io.NewSectionReader(disk, rig.Start, rig.Size), rig.Size)
	if err != nil {
		return err
	}
	at, err := fsys.Ranges(manifest.SwitchFile)
	if err != nil {
		return err
	}
	if len(at) != 1 || at[0].Len != manifest.SwitchSize {
		return fmt.Errorf("%s is not one block of %d bytes", manifest.SwitchFile, manifest.SwitchSize)
	}
	block := aligned(manifest.SwitchSize)
	copy(block, manifest.InstallSwitch(manifest.NewMedium()))
	off := rig.Start + at[0].Off
	if _, err := dev.WriteAt(block, off); err != nil {
		return diskError("write", p.Disk, off, "medium id", err)
	}
	if err := dev.Sync(); err != nil {
		return diskError("flush", p.Disk, off, "medium id", err)
	}
	back := aligned(manifest.SwitchSize)
	if _, err := dev.ReadAt(back, off); err != nil {
		return diskError("read back", p.Disk, off, "medium id", err)
	}
	if !bytes.Equal(back, block) {
		return diskError("read back", p.Disk, off, "medium id", fmt.Errorf("it reads otherwise than it was written"))
	}
	return nil
}

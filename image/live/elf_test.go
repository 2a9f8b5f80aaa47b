package live

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// program is a dynamically linked ELF file of the test trees: headers, an
// interpreter and a dynamic section, no code.
func program(interp string, needed []string, runpath string) []byte {
	strtab := []byte{0}
	str := func(s string) uint64 {
		at := len(strtab)
		strtab = append(append(strtab, s...), 0)
		return uint64(at)
	}
	var dyn []elf.Dyn64
	for _, n := range needed {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: str(n)})
	}
	if runpath != "" {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: str(runpath)})
	}
	dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NULL)})

	const ehsize, phsize, shsize = 64, 56, 64
	const phnum, shnum = 1, 3
	interpOff := uint64(ehsize + phnum*phsize)
	strOff := interpOff + uint64(len(interp)) + 1
	dynOff := strOff + uint64(len(strtab))
	shOff := dynOff + uint64(len(dyn)*16)
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: ehsize, Shoff: shOff,
		Ehsize: ehsize, Phentsize: phsize, Phnum: phnum, Shentsize: shsize, Shnum: shnum, Shstrndx: 1}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION], h.Ident[elf.EI_OSABI] = byte(elf.EV_CURRENT), byte(elf.ELFOSABI_FREEBSD)
	put(h)
	typ := elf.PT_INTERP
	if interp == "" {
		typ = elf.PT_NULL
	}
	put(elf.Prog64{Type: uint32(typ), Off: interpOff, Filesz: uint64(len(interp) + 1)})
	b.WriteString(interp + "\x00")
	b.Write(strtab)
	put(dyn)
	put(elf.Section64{})
	put(elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: strOff, Size: uint64(len(strtab))})
	put(elf.Section64{Type: uint32(elf.SHT_DYNAMIC), Off: dynOff, Size: uint64(len(dyn) * 16), Link: 1, Entsize: 16})
	return b.Bytes()
}

package gpt

import (
	"encoding/binary"
	"hash/crc32"
)

// resum repairs the checksum of a header.
func resum(h []byte) {
	clear(h[16:20])
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerSize]))
}

// retable makes a header believe a table.
func retable(h, table []byte) {
	binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	resum(h)
}

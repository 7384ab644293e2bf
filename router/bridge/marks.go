package bridge

import (
	"encoding/binary"
	"fmt"
	"syscall"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// Seals of a file in memory (linux/fcntl.h). Only such a file has any, so that reading one that has them never waits.
const (
	fcntlGetSeals = 1034
	sealsOfMarks  = 0x2 | 0x4 // it neither shrinks nor grows
)

// markBytes is the size of one mark: the number of the call that began last in a slot, little-endian.
const markBytes = 8

// marks is the memory in which a worker notes that a call begins, in place of a frame. It is read when the connection has ended.
type marks struct {
	fd    int
	slots int
}

// takeMarks takes the descriptor that came with a Hello, when it is what the Hello says; it returns nil, and a reason if there is one, when calls of
// the connection are told by Accepted.
func (c *conn) takeMarks(h *bridgev1.Hello) (*marks, error) {
	slots := max(int(h.GetSlots()), 1)
	if c.handed < 0 || c.version < 2 || int(h.GetMarksBytes()) != slots*markBytes {
		return nil, nil
	}
	if seals, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(c.handed), fcntlGetSeals, 0); errno != 0 || seals&sealsOfMarks != sealsOfMarks {
		return nil, fmt.Errorf("the descriptor is no sealed memory (seals %#x, %w)", seals, errno)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(c.handed, &stat); err != nil || stat.Size != int64(slots*markBytes) {
		return nil, fmt.Errorf("the memory has %d bytes, and not %d for each of %d slots (%w)", stat.Size, markBytes, slots, err)
	}
	m := &marks{c.handed, slots}
	c.handed = -1
	return m, nil
}

// begun is the set of the calls that began last, one for each slot. Every other call that has not ended never began.
func (m *marks) begun() (map[uint32]bool, error) {
	all := make([]byte, m.slots*markBytes)
	if n, err := syscall.Pread(m.fd, all, 0); err != nil || n != len(all) {
		return nil, fmt.Errorf("read the marks: %d of %d bytes: %w", n, len(all), err)
	}
	ids := make(map[uint32]bool, m.slots)
	for ; len(all) > 0; all = all[markBytes:] {
		if id := binary.LittleEndian.Uint64(all); id != 0 && id <= 1<<32-1 {
			ids[uint32(id)] = true
		}
	}
	return ids, nil
}

func (m *marks) close() {
	if m != nil {
		_ = syscall.Close(m.fd) // memory: nothing is written back
	}
}

// Read reads from the socket. With the bytes of a Hello comes a descriptor, of which one is kept; later ones are dropped by the kernel.
func (c *conn) Read(b []byte) (int, error) {
	if c.unix == nil {
		return c.Conn.Read(b)
	}
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := c.unix.ReadMsgUnix(b, oob)
	messages, parse := syscall.ParseSocketControlMessage(oob[:oobn])
	if parse != nil {
		return n, err
	}
	for i := range messages {
		fds, _ := syscall.ParseUnixRights(&messages[i]) // other control messages hold none
		for _, fd := range fds {
			if c.handed >= 0 {
				_ = syscall.Close(fd)
				continue
			}
			c.handed = fd
		}
	}
	return n, err
}

// greeted ends the time in which descriptors are taken.
func (c *conn) greeted() { c.unix = nil }

// dropHanded gives back what came with a Hello and was not taken, and the marks.
func (c *conn) dropHanded() {
	if c.handed >= 0 {
		_ = syscall.Close(c.handed)
		c.handed = -1
	}
	c.marks.close()
}

package l4

import (
	"encoding/binary"
	"io"

	"github.com/cirque-lb/lb/bpf"
)

// Pcapng writes what was captured as a file that tcpdump and Wireshark read:
// each packet with its verdict, and with its reason as a comment.
type Pcapng struct {
	w          io.Writer
	interfaces map[int]uint32 // by index in the kernel: number in the file
	snaplen    int
	name       func(ifindex int) string
}

// Blocks and options of pcapng (draft-ietf-opsawg-pcapng).
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6
	byteOrder      = 0x1a2b3c4d
	linkEthernet   = 1

	optionComment  = 1
	optionName     = 2 // if_name
	optionResolves = 9 // if_tsresol
	optionApp      = 4 // shb_userappl
	optionVerdict  = 7 // epb_verdict
	verdictXDP     = 2
	nanoseconds    = 9 // digits after the point
)

// NewPcapng begins a file. name gives an interface's by its index.
func NewPcapng(w io.Writer, snaplen int, name func(ifindex int) string) (*Pcapng, error) {
	b := binary.LittleEndian.AppendUint32(nil, byteOrder)
	b = append(b, 1, 0, 0, 0) // version 1.0
	b = binary.LittleEndian.AppendUint64(b, ^uint64(0))
	b = option(b, optionApp, []byte("Cirque"))
	p := &Pcapng{w, map[int]uint32{}, snaplen, name}
	return p, p.block(blockSection, ended(b))
}

// Write adds a packet, and before the first of an interface that.
func (p *Pcapng) Write(s Sight) error {
	number, known := p.interfaces[s.Ifindex]
	if !known {
		number = uint32(len(p.interfaces))
		p.interfaces[s.Ifindex] = number
		b := binary.LittleEndian.AppendUint32([]byte{linkEthernet, 0, 0, 0}, uint32(p.snaplen))
		b = option(b, optionName, []byte(p.name(s.Ifindex)))
		b = option(b, optionResolves, []byte{nanoseconds})
		if err := p.block(blockInterface, ended(b)); err != nil {
			return err
		}
	}
	at := uint64(s.At.UnixNano())
	b := binary.LittleEndian.AppendUint32(nil, number)
	b = binary.LittleEndian.AppendUint32(b, uint32(at>>32))
	b = binary.LittleEndian.AppendUint32(b, uint32(at))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.Frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Length))
	b = padded(append(b, s.Frame...))
	b = option(b, optionComment, []byte(comment(s)))
	b = option(b, optionVerdict, binary.LittleEndian.AppendUint64([]byte{verdictXDP}, s.action))
	return p.block(blockPacket, ended(b))
}

// comment says what became of a packet: drop xdp_no_owner.
func comment(s Sight) string {
	if i := reasonIndex(s.Reason); i >= 0 && bpf.Reasons[i].Verdict == "send" {
		return s.Verdict + " (sent on) " + string(s.Reason)
	}
	return s.Verdict + " " + string(s.Reason)
}

func (p *Pcapng) block(kind uint32, body []byte) error {
	size := uint32(len(body) + 12)
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, size)
	b = append(b, body...)
	_, err := p.w.Write(binary.LittleEndian.AppendUint32(b, size))
	return err
}

func option(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	return padded(append(b, value...))
}

// ended appends the option that ends options.
func ended(b []byte) []byte { return append(b, 0, 0, 0, 0) }

func padded(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

package h2

import "encoding/binary"

// Frame types and flags of RFC 9113, section 6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameReset        = 0x3
	frameSettings     = 0x4
	framePush         = 0x5
	framePing         = 0x6
	frameGoaway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize  = 0x1
	settingPush       = 0x2
	settingStreams    = 0x3
	settingWindow     = 0x4
	settingFrameSize  = 0x5
	settingHeaderList = 0x6
	settingConnect    = 0x8

	headerLen     = 9
	frameSize     = 16384 // what we announce (the default) and never exceed
	defaultWindow = 65535
	maxWindow     = 1<<31 - 1
)

// frame is a frame header.
type frame struct {
	length int
	kind   byte
	flags  byte
	id     uint32
}

func parseFrame(p []byte) frame {
	_ = p[8]
	return frame{
		length: int(p[0])<<16 | int(p[1])<<8 | int(p[2]),
		kind:   p[3],
		flags:  p[4],
		id:     binary.BigEndian.Uint32(p[5:]) & maxWindow,
	}
}

func appendFrame(b []byte, length int, kind, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putFrame(b []byte, length int, kind, flags byte, id uint32) {
	_ = appendFrame(b[:0:headerLen], length, kind, flags, id)
}

func appendReset(b []byte, id uint32, code ErrCode) []byte {
	b = appendFrame(b, 4, frameReset, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindow(b []byte, id uint32, n uint32) []byte {
	b = appendFrame(b, 4, frameWindow, 0, id)
	return binary.BigEndian.AppendUint32(b, n)
}

func appendGoaway(b []byte, last uint32, code ErrCode, debug string) []byte {
	b = appendFrame(b, 8+len(debug), frameGoaway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, debug...)
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	b = binary.BigEndian.AppendUint16(b, id)
	return binary.BigEndian.AppendUint32(b, v)
}

// unpad returns what is between a pad length and the padding.
func unpad(p []byte, flags byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

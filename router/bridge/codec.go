package bridge

import (
	"encoding/binary"
	"errors"
)

// Limits of the protocol, in bytes.
const (
	MaxFrame      = 8 + 256<<10 + 64<<10 // of the length field
	MaxPayload    = 256 << 10
	InitialWindow = 1<<20 + 64<<10 // a message of 1 MiB, with what is around it, waits for no credit
	headerBytes   = 12
	bodyHeader    = 8
)

// Kind of a frame.
type Kind uint8

// Kinds of frames.
const (
	KindHello         Kind = 0x01
	KindWelcome       Kind = 0x02
	KindGoodbye       Kind = 0x03
	KindCall          Kind = 0x10
	KindAccepted      Kind = 0x11
	KindMessage       Kind = 0x12
	KindFinish        Kind = 0x13
	KindCancel        Kind = 0x14
	KindWindow        Kind = 0x15
	KindHeaders       Kind = 0x16
	KindRecall        Kind = 0x17
	KindRecalled      Kind = 0x18
	KindPing          Kind = 0x20
	KindPong          Kind = 0x21
	KindSessionOpen   Kind = 0x22
	KindSessionOpened Kind = 0x23
	KindSessionClose  Kind = 0x24
	KindSessionClosed Kind = 0x25
	KindControl       Kind = 0x30
)

// Flags of Call, Message and Finish.
const (
	FlagMessage    = 0x01
	FlagEndMessage = 0x02
	FlagEndStream  = 0x04
	flagsKnown     = 0x07
)

// Errors of decoding; ErrIncomplete means that the rest has not arrived.
var (
	ErrIncomplete     = errors.New("incomplete")
	ErrTooShort       = errors.New("too_short")
	ErrTooLong        = errors.New("too_long")
	ErrTruncatedFixed = errors.New("truncated_fixed")
	ErrTruncatedExt   = errors.New("truncated_ext")
	ErrPayloadTooLong = errors.New("payload_too_long")
)

// Frame is one decoded frame. Only the fields of its kind are set; Ext and Payload share memory with the input.
type Frame struct {
	Kind    Kind
	Flags   uint8
	ID      uint32
	Tool    uint16
	Code    uint16
	Outcome uint16
	Cause   uint16
	Status  uint16
	Bytes   uint32
	Epoch   uint64
	Timeout uint64 // microseconds
	Nonce   uint64
	Ext     []byte
	Payload []byte
}

// fixedBytes of each known kind, by kind; -1 for an unknown one.
var fixedBytes = func() (t [256]int8) {
	for i := range t {
		t[i] = -1
	}
	for kind, n := range map[Kind]int8{
		KindHello: 0, KindWelcome: 0, KindGoodbye: 0, KindCall: 24, KindAccepted: 0, KindMessage: 0, KindFinish: 4,
		KindCancel: 4, KindWindow: 4, KindHeaders: 0, KindRecall: 0, KindRecalled: 0, KindPing: 8, KindPong: 8, KindSessionOpen: 8, KindSessionOpened: 12,
		KindSessionClose: 12, KindSessionClosed: 12, KindControl: 0,
	} {
		t[kind] = n
	}
	return t
}()

// frameLength reads and checks the length field.
func frameLength(b []byte) (int, error) {
	n := binary.LittleEndian.Uint32(b)
	switch {
	case n < bodyHeader:
		return 0, ErrTooShort
	case n > MaxFrame:
		return 0, ErrTooLong
	}
	return int(n), nil
}

// Decode reads one frame and the number of bytes it took.
func Decode(b []byte) (Frame, int, error) {
	if len(b) < 4 {
		return Frame{}, 0, ErrIncomplete
	}
	n, err := frameLength(b)
	if err != nil {
		return Frame{}, 0, err
	}
	if len(b) < 4+n {
		return Frame{}, 0, ErrIncomplete
	}
	var f Frame
	if err := f.decodeBody(b[4 : 4+n]); err != nil {
		return Frame{}, 0, err
	}
	return f, 4 + n, nil
}

// decodeBody reads what follows the length field; it holds at least the header.
func (f *Frame) decodeBody(b []byte) error { return f.decodeLong(b, 0) }

// decodeLong reads a body of which the last bytes, as many as toCome says, are still to come: they belong to the payload.
func (f *Frame) decodeLong(b []byte, toCome int) error {
	*f = Frame{Kind: Kind(b[0]), Flags: b[1], ID: binary.LittleEndian.Uint32(b[4:])}
	ext := int(binary.LittleEndian.Uint16(b[2:]))
	rest := b[bodyHeader:]
	fixed := int(fixedBytes[f.Kind])
	if fixed < 0 {
		f.Payload = rest
		return nil
	}
	if len(rest) < fixed {
		return ErrTruncatedFixed
	}
	if len(rest) < fixed+ext {
		return ErrTruncatedExt
	}
	f.Ext, f.Payload = rest[fixed:fixed+ext], rest[fixed+ext:]
	switch f.Kind {
	case KindCall, KindMessage, KindFinish:
		if len(f.Payload)+toCome > MaxPayload {
			return ErrPayloadTooLong
		}
	}
	f.decodeFixed(rest[:fixed])
	return nil
}

func (f *Frame) decodeFixed(b []byte) {
	le := binary.LittleEndian
	switch f.Kind {
	case KindCall:
		f.Tool, f.Epoch, f.Timeout = le.Uint16(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	case KindFinish:
		f.Code, f.Outcome = le.Uint16(b), le.Uint16(b[2:])
	case KindCancel:
		f.Cause = le.Uint16(b)
	case KindWindow:
		f.Bytes = le.Uint32(b)
	case KindPing, KindPong:
		f.Nonce = le.Uint64(b)
	case KindSessionOpen:
		f.Epoch = le.Uint64(b)
	case KindSessionOpened, KindSessionClosed:
		f.Epoch, f.Status = le.Uint64(b), le.Uint16(b[8:])
	case KindSessionClose:
		f.Epoch, f.Cause = le.Uint64(b), le.Uint16(b[8:])
	}
}

// AppendHeader appends everything of the frame but its payload, of which payload bytes will follow.
func (f *Frame) AppendHeader(b []byte, payload int) []byte {
	le := binary.LittleEndian
	fixed := max(int(fixedBytes[f.Kind]), 0)
	b = le.AppendUint32(b, uint32(bodyHeader+fixed+len(f.Ext)+payload))
	b = append(b, byte(f.Kind), f.Flags)
	b = le.AppendUint16(b, uint16(len(f.Ext)))
	b = le.AppendUint32(b, f.ID)
	switch f.Kind {
	case KindCall:
		b = le.AppendUint64(b, uint64(f.Tool))
		b = le.AppendUint64(b, f.Epoch)
		b = le.AppendUint64(b, f.Timeout)
	case KindFinish:
		b = le.AppendUint16(b, f.Code)
		b = le.AppendUint16(b, f.Outcome)
	case KindCancel:
		b = le.AppendUint32(b, uint32(f.Cause))
	case KindWindow:
		b = le.AppendUint32(b, f.Bytes)
	case KindPing, KindPong:
		b = le.AppendUint64(b, f.Nonce)
	case KindSessionOpen:
		b = le.AppendUint64(b, f.Epoch)
	case KindSessionOpened, KindSessionClosed:
		b = le.AppendUint64(b, f.Epoch)
		b = le.AppendUint32(b, uint32(f.Status))
	case KindSessionClose:
		b = le.AppendUint64(b, f.Epoch)
		b = le.AppendUint32(b, uint32(f.Cause))
	}
	return append(b, f.Ext...)
}

// Append appends the whole frame.
func (f *Frame) Append(b []byte) []byte {
	return append(f.AppendHeader(b, len(f.Payload)), f.Payload...)
}

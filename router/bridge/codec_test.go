package bridge

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

type vector struct {
	Name      string
	Hex       string
	Pad       int
	Canonical *bool
	Error     string
	Frame     *struct {
		Kind, Flags uint8
		ID          uint32
		Fixed       map[string]json.Number
		ExtHex      string `json:"ext_hex"`
		PayloadHex  string `json:"payload_hex"`
	}
}

func readVectors(t *testing.T) []vector {
	t.Helper()
	text, err := os.ReadFile("../../api/bridge/v1alpha1/testdata/frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(text, &vs); err != nil {
		t.Fatal(err)
	}
	if len(vs) < 50 {
		t.Fatalf("only %d vectors", len(vs))
	}
	return vs
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fixed lists the fields of a frame by their names in docs/bridge.md.
func (f *Frame) fixed() map[string]uint64 {
	switch f.Kind {
	case KindCall:
		return map[string]uint64{"tool": uint64(f.Tool), "epoch": f.Epoch, "timeout_us": f.Timeout}
	case KindFinish:
		return map[string]uint64{"code": uint64(f.Code), "outcome": uint64(f.Outcome)}
	case KindCancel:
		return map[string]uint64{"cause": uint64(f.Cause)}
	case KindWindow:
		return map[string]uint64{"bytes": uint64(f.Bytes)}
	case KindPing, KindPong:
		return map[string]uint64{"nonce": f.Nonce}
	case KindSessionOpen:
		return map[string]uint64{"epoch": f.Epoch}
	case KindSessionOpened, KindSessionClosed:
		return map[string]uint64{"epoch": f.Epoch, "status": uint64(f.Status)}
	case KindSessionClose:
		return map[string]uint64{"epoch": f.Epoch, "cause": uint64(f.Cause)}
	}
	return map[string]uint64{}
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			input := append(unhex(t, v.Hex), make([]byte, v.Pad)...)
			f, n, err := Decode(input)
			if v.Error != "" {
				if err == nil || err.Error() != v.Error {
					t.Fatalf("got %v, want %s", err, v.Error)
				}
				return
			}
			if err != nil || n != len(input) {
				t.Fatalf("%v after %d of %d bytes", err, n, len(input))
			}
			payload := append(unhex(t, v.Frame.PayloadHex), make([]byte, v.Pad)...)
			if uint8(f.Kind) != v.Frame.Kind || f.Flags != v.Frame.Flags || f.ID != v.Frame.ID ||
				!bytes.Equal(f.Ext, unhex(t, v.Frame.ExtHex)) || !bytes.Equal(f.Payload, payload) {
				t.Fatalf("decoded %+v", f)
			}
			fixed := f.fixed()
			if len(fixed) != len(v.Frame.Fixed) {
				t.Fatalf("fields %v, want %v", fixed, v.Frame.Fixed)
			}
			for name, want := range v.Frame.Fixed {
				got, _ := json.Marshal(fixed[name])
				if string(got) != want.String() {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
			if v.Canonical == nil && !bytes.Equal(f.Append(nil), input) {
				t.Errorf("encodes to other bytes")
			}
		})
	}
}

func TestDecodingNeverPanicsAndIsWhole(t *testing.T) {
	vs := readVectors(t)
	rapid.Check(t, func(r *rapid.T) {
		v := vs[rapid.IntRange(0, len(vs)-1).Draw(r, "vector")]
		b := unhex(t, v.Hex)
		for range rapid.IntRange(0, 4).Draw(r, "changes") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(r, "at")] = rapid.Byte().Draw(r, "to")
			}
		}
		b = b[:rapid.IntRange(0, len(b)).Draw(r, "cut")]
		f, n, err := Decode(b)
		if err != nil {
			return
		}
		if n > len(b) {
			r.Fatalf("took %d of %d bytes", n, len(b))
		}
		again, _, err := Decode(f.Append(nil))
		if fixedBytes[f.Kind] >= 0 && (err != nil || again.ID != f.ID || !bytes.Equal(again.Payload, f.Payload) || !bytes.Equal(again.Ext, f.Ext)) {
			r.Fatalf("a decoded frame does not survive: %v", err)
		}
		if _, _, err := Decode(b[:n-1]); !errors.Is(err, ErrIncomplete) {
			r.Fatalf("without its last byte: %v", err)
		}
	})
}

// FuzzDecode: no input breaks the decoder, what it accepts it writes again, and it never reads beyond a frame.
func FuzzDecode(f *testing.F) {
	text, err := os.ReadFile("../../api/bridge/v1alpha1/testdata/frames.json")
	if err != nil {
		f.Fatal(err)
	}
	var vs []vector
	if err := json.Unmarshal(text, &vs); err != nil {
		f.Fatal(err)
	}
	for _, v := range vs {
		if b, err := hex.DecodeString(v.Hex); err == nil && v.Pad < 1<<10 {
			f.Add(append(b, make([]byte, v.Pad)...))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, n, err := Decode(b)
		if err != nil {
			if n != 0 {
				t.Fatalf("%d bytes taken with %v", n, err)
			}
			return
		}
		if n < headerBytes || n > len(b) || n > 4+MaxFrame {
			t.Fatalf("took %d of %d bytes", n, len(b))
		}
		if _, _, err := Decode(b[:n-1]); !errors.Is(err, ErrIncomplete) {
			t.Fatalf("one byte less: %v", err)
		}
		if fixedBytes[frame.Kind] < 0 {
			return // its body is not divided
		}
		again := frame.Append(nil)
		back, m, err := Decode(again)
		if err != nil || m != len(again) || m != n {
			t.Fatalf("written again: %d bytes, %v", m, err)
		}
		if !bytes.Equal(back.Ext, frame.Ext) || !bytes.Equal(back.Payload, frame.Payload) {
			t.Fatal("ext or payload differ")
		}
		frame.Ext, frame.Payload, back.Ext, back.Payload = nil, nil, nil, nil
		if !reflect.DeepEqual(frame, back) {
			t.Fatalf("%+v became %+v", frame, back)
		}
	})
}

// chunks reads as from a socket: a few bytes at a time.
type chunks struct {
	net.Conn
	rest []byte
	step int
}

func (c *chunks) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.rest[:min(len(c.rest), c.step)])
	c.rest = c.rest[n:]
	return n, nil
}

// wholeError is what is wrong with a frame of which the rest is still to come, whatever comes.
func wholeError(b []byte) error {
	if len(b) < headerBytes {
		return nil
	}
	n, err := frameLength(b)
	if err != nil {
		return err
	}
	_, _, err = Decode(append(bytes.Clone(b), make([]byte, max(4+n-len(b), 0))...))
	return err
}

// FuzzReadFrame: the reader of connections agrees with Decode, however the bytes arrive.
func FuzzReadFrame(f *testing.F) {
	one := (&Frame{Kind: KindFinish, ID: 3, Flags: 3, Ext: []byte("x"), Payload: []byte("hello")}).Append(nil)
	f.Add(append(one, one...), uint8(1))
	f.Add(one[:len(one)-1], uint8(200))
	f.Add([]byte("00\x04\x00\x130\x01\x00000000000"), uint8(1)) // its payload is too long, which its header says already
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		c := newConn(&chunks{rest: b, step: int(step) + 1}, heap{})
		for rest := b; ; {
			want, n, wantErr := Decode(rest)
			var got Frame
			_, err := c.readFrame(&got)
			if errors.Is(wantErr, ErrIncomplete) {
				if whole := wholeError(rest); whole != nil && errors.Is(err, whole) {
					return // a long frame is refused by its header
				}
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && len(rest) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("the end: %v after %d bytes", err, len(rest))
				}
				return
			}
			if wantErr != nil {
				if !errors.Is(err, wantErr) {
					t.Fatalf("%v, want %v", err, wantErr)
				}
				return
			}
			if err != nil || !bytes.Equal(got.Payload, want.Payload) || !bytes.Equal(got.Ext, want.Ext) || got.Kind != want.Kind || got.ID != want.ID {
				t.Fatalf("%+v, %v; want %+v", got, err, want)
			}
			rest = rest[n:]
		}
	})
}

func TestLongFramesHaveMemoryOfTheirOwn(t *testing.T) {
	long := Frame{Kind: KindMessage, ID: 9, Flags: FlagMessage, Payload: bytes.Repeat([]byte("abcd"), MaxPayload/4)}
	wide := Frame{Kind: KindFinish, ID: 9, Flags: FlagMessage, Code: 2, Ext: bytes.Repeat([]byte("e"), 65000), Payload: bytes.Repeat([]byte("p"), MaxPayload)}
	small := Frame{Kind: KindAccepted, ID: 9}
	var b []byte
	for _, f := range []*Frame{&long, &small, &wide, &small} {
		b = f.Append(b)
	}
	c := newConn(&chunks{rest: b, step: 4096}, heap{})
	var f Frame
	var kept [][]byte
	for range 4 {
		owned, err := c.readFrame(&f)
		if err != nil {
			t.Fatal(err)
		}
		if owned != nil {
			kept = append(kept, *owned)
		}
	}
	if len(kept) != 2 || !bytes.Equal(kept[0], long.Payload) || !bytes.Equal(kept[1], wide.Payload) {
		t.Fatalf("%d payloads were kept, or they changed", len(kept))
	}
	tooLong := Frame{Kind: KindMessage, Flags: FlagMessage, Payload: make([]byte, MaxPayload+1)}
	if _, err := newConn(&chunks{rest: tooLong.Append(nil), step: 4096}, heap{}).readFrame(&f); !errors.Is(err, ErrPayloadTooLong) {
		t.Fatalf("a payload beyond the limit: %v", err)
	}
}

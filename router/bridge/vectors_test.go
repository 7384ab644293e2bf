package bridge

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
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

package datapath

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snakepit-k8s/snakepit/router/bridge"
	"github.com/snakepit-k8s/snakepit/test/fixture"
)

// pythonVerdicts reads cases (u32 length, u32 size of the pieces it is fed in, bytes) and writes what the decoder of the workers makes of each: as
// a line, the frames and how it ended. Pieces: fed whole and read by next_frame, or in pieces and read by next_call first, as workers do.
const pythonVerdicts = `
import struct, sys, zlib
from snakepit.bridge.protocol import Decoder, Kind, ProtocolError

def show(f):
    return f"{f.kind},{f.flags},{f.id},{'/'.join(map(str, f.fixed))},{len(f.ext)},{zlib.crc32(f.ext)},{len(f.payload)},{zlib.crc32(f.payload)}"

def call(c):
    flags, id, tool, epoch, timeout, ext, payload = c
    return f"{int(Kind.CALL)},{flags},{id},{tool}/{epoch}/{timeout},{len(ext)},{zlib.crc32(ext)},{len(payload)},{zlib.crc32(payload)}"

def verdict(data, step):
    decoder, seen = Decoder(), []
    try:
        for at in range(0, len(data), step):
            decoder.feed(data[at : at + step])
            while True:
                if step < len(data) and (c := decoder.next_call()) is not None:
                    seen.append(call(c))
                elif (f := decoder.next_frame()) is not None:
                    seen.append(show(f))
                else:
                    break
    except ProtocolError as error:
        return ";".join([*seen, error.code])
    return ";".join([*seen, f"{decoder.pending()} left"])

while head := sys.stdin.buffer.read(8):
    length, step = struct.unpack("<II", head)
    print(verdict(sys.stdin.buffer.read(length), step))
`

// TestF2DecodersAgree feeds the same mutated frames to the router's decoder and to that of the workers, whole and in pieces.
func TestF2DecodersAgree(t *testing.T) {
	const cases = 20000
	random := rand.New(rand.NewPCG(seed, 2))
	seeds := frameSeeds(t)
	var input bytes.Buffer
	var wanted []string
	broken := 0
	for range cases {
		frames := mutate(random, seeds)
		verdict := goVerdict(frames, len(frames))
		if !strings.HasSuffix(verdict, " left") {
			broken++
		}
		step := 1 + random.IntN(max(len(frames)/4, 1))
		if len(frames) <= 64 {
			step = 1 // split at every byte
		}
		for _, pieces := range []int{max(len(frames), 1), step} {
			if again := goVerdict(frames, pieces); again != verdict {
				t.Errorf("the router's decoder: in pieces of %d bytes %s, whole %s: %x", pieces, again, verdict, frames[:min(len(frames), 64)])
			}
			_ = binary.Write(&input, binary.LittleEndian, [2]uint32{uint32(len(frames)), uint32(pieces)}) // a buffer does not fail
			input.Write(frames)
			wanted = append(wanted, verdict)
		}
	}
	cmd := exec.Command(python(), "-c", pythonVerdicts)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(fixture.Root(), "worker-image/src"))
	cmd.Stdin, cmd.Stderr = &input, os.Stderr
	page, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(page), "\n"), "\n")
	if len(got) != len(wanted) {
		t.Fatalf("%d verdicts of %d", len(got), len(wanted))
	}
	disagreements := 0
	for i := range got {
		if got[i] != wanted[i] {
			if disagreements++; disagreements <= 10 {
				t.Logf("case %d: router %s, worker %s", i, wanted[i], got[i])
			}
		}
	}
	void := ""
	if broken < cases/10 || broken > cases*9/10 {
		void = fmt.Sprintf("%d of %d cases are refused", broken, cases)
	}
	report(t, "F2", void, 1, told("executions", float64(len(got)), "inputs"), told("refused", float64(broken), "inputs"),
		atMost("disagreements", float64(disagreements), 0, "inputs"))
}

// frameSeeds are the byte vectors that both implementations are checked against, those with a large payload as well.
func frameSeeds(t *testing.T) [][]byte {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(fixture.Root(), "api/bridge/v1alpha1/testdata/frames.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Hex string
		Pad int
	}
	if err := json.Unmarshal(page, &vectors); err != nil {
		t.Fatal(err)
	}
	var seeds [][]byte
	for _, v := range vectors {
		frame, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		seeds = append(seeds, append(frame, make([]byte, v.Pad)...))
	}
	return seeds
}

// mutate makes one to three frames, most of them a little wrong. Large ones are rare: they cost time.
func mutate(r *rand.Rand, seeds [][]byte) []byte {
	var all []byte
	for range 1 + r.IntN(3) {
		frame := slices.Clone(seeds[r.IntN(len(seeds))])
		if len(frame) > 4096 && r.IntN(50) > 0 {
			frame = frame[:12+r.IntN(100)]
			binary.LittleEndian.PutUint32(frame, uint32(len(frame)-4))
		}
		for range r.IntN(3) {
			frame = mutateOnce(r, frame)
		}
		all = append(all, frame...)
	}
	return all
}

func mutateOnce(r *rand.Rand, frame []byte) []byte {
	if len(frame) < 12 {
		return append(frame, byte(r.Uint32()))
	}
	fit := func() { binary.LittleEndian.PutUint32(frame, uint32(len(frame)-4)) }
	switch r.IntN(8) {
	case 0:
		frame[r.IntN(len(frame))] ^= 1 << r.IntN(8)
	case 1:
		frame = frame[:r.IntN(len(frame))]
	case 2: // shorter, and its length says so
		frame = frame[:12+r.IntN(len(frame)-11)]
		fit()
	case 3: // longer
		frame = append(frame, make([]byte, r.IntN(40))...)
		fit()
	case 4:
		frame[4] = byte(r.IntN(0x40)) // kind
	case 5:
		binary.LittleEndian.PutUint16(frame[6:], uint16(r.IntN(40))) // ext
	case 6:
		binary.LittleEndian.PutUint32(frame, []uint32{0, 7, 8, bridge.MaxFrame, bridge.MaxFrame + 1, 1 << 31, r.Uint32()}[r.IntN(7)])
	case 7: // about the longest payload that is allowed
		if r.IntN(50) == 0 {
			frame = append(frame, make([]byte, max(bridge.MaxPayload-len(frame)+r.IntN(60), 0))...)
			fit()
		}
	}
	return frame
}

// goVerdict is what the router's decoder makes of bytes that come in pieces, in the words of pythonVerdicts.
func goVerdict(b []byte, step int) string {
	var seen []string
	start := 0
	for end := min(step, len(b)); ; end = min(end+step, len(b)) {
		for {
			f, n, err := bridge.Decode(b[start:end])
			if errors.Is(err, bridge.ErrIncomplete) {
				break
			}
			if err != nil {
				return strings.Join(append(seen, err.Error()), ";")
			}
			seen, start = append(seen, showFrame(&f)), start+n
		}
		if end == len(b) {
			return strings.Join(append(seen, fmt.Sprint(len(b)-start, " left")), ";")
		}
	}
}

func showFrame(f *bridge.Frame) string {
	var fixed string
	switch f.Kind {
	case bridge.KindCall:
		fixed = fmt.Sprintf("%d/%d/%d", f.Tool, f.Epoch, f.Timeout)
	case bridge.KindFinish:
		fixed = fmt.Sprintf("%d/%d", f.Code, f.Outcome)
	case bridge.KindCancel:
		fixed = fmt.Sprint(f.Cause)
	case bridge.KindWindow:
		fixed = fmt.Sprint(f.Bytes)
	case bridge.KindPing, bridge.KindPong:
		fixed = fmt.Sprint(f.Nonce)
	case bridge.KindSessionOpen:
		fixed = fmt.Sprint(f.Epoch)
	case bridge.KindSessionOpened, bridge.KindSessionClosed:
		fixed = fmt.Sprintf("%d/%d", f.Epoch, f.Status)
	case bridge.KindSessionClose:
		fixed = fmt.Sprintf("%d/%d", f.Epoch, f.Cause)
	}
	return fmt.Sprintf("%d,%d,%d,%s,%d,%d,%d,%d", f.Kind, f.Flags, f.ID, fixed, len(f.Ext), crc32.ChecksumIEEE(f.Ext), len(f.Payload), crc32.ChecksumIEEE(f.Payload))
}

package session

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// Bounds of names and tokens, in bytes.
const (
	MaxNameBytes  = 128
	MaxTokenBytes = 256
	maxPodBytes   = 40
)

const tokenVersion = 1

var strict = base64.RawURLEncoding.Strict()

// tokenFixedBytes: version, length of the pod UID, slot, nonce, epoch.
const tokenFixedBytes = 1 + 1 + 2 + 8 + 8

// ErrToken says that a text is not a session token.
var ErrToken = errors.New("not a session token of this version; send back what a call of the session answered, unchanged")

// Worker identifies one incarnation of a worker within its pod.
type Worker struct {
	Nonce uint64
	Slot  uint16
}

// Token names one life of a session: (name, incarnation, epoch). It is compared for equality and is never a source of epochs.
type Token struct {
	Pod    string
	Name   string
	Worker Worker
	Epoch  uint64
}

// ValidName reports whether a caller may name a session so.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > MaxNameBytes {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '.', c == '_', c == ':', c == '@', c == '/', c == '-':
		default:
			return false
		}
	}
	return true
}

// ValidPod reports whether a pod UID fits into a token.
func ValidPod(pod string) bool { return len(pod) > 0 && len(pod) <= maxPodBytes }

// String writes the token as callers see it.
func (t Token) String() string {
	var space [tokenFixedBytes + maxPodBytes + MaxNameBytes]byte // on the stack: every answer of a session carries a token
	raw := append(space[:0], tokenVersion, byte(len(t.Pod)))
	raw = append(raw, t.Pod...)
	raw = binary.LittleEndian.AppendUint16(raw, t.Worker.Slot)
	raw = binary.LittleEndian.AppendUint64(raw, t.Worker.Nonce)
	raw = binary.LittleEndian.AppendUint64(raw, t.Epoch)
	raw = append(raw, t.Name...)
	var text [MaxTokenBytes]byte
	return string(base64.RawURLEncoding.AppendEncode(text[:0], raw))
}

// ParseToken reads what String wrote and nothing else: one life has exactly one text.
func ParseToken(text string) (Token, error) {
	if len(text) == 0 || len(text) > MaxTokenBytes {
		return Token{}, ErrToken
	}
	for i := 0; i < len(text); i++ {
		if text[i] == '\r' || text[i] == '\n' { // the decoder would skip them
			return Token{}, ErrToken
		}
	}
	var space [MaxTokenBytes]byte // on the stack: every call of a session may carry a token
	raw, err := strict.AppendDecode(space[:0], []byte(text))
	if err != nil || len(raw) < tokenFixedBytes || raw[0] != tokenVersion {
		return Token{}, ErrToken
	}
	pod := int(raw[1])
	if pod == 0 || pod > maxPodBytes || len(raw) < tokenFixedBytes+pod {
		return Token{}, ErrToken
	}
	rest := raw[2+pod:]
	token := Token{
		Pod:    string(raw[2 : 2+pod]),
		Worker: Worker{Slot: binary.LittleEndian.Uint16(rest), Nonce: binary.LittleEndian.Uint64(rest[2:])},
		Epoch:  binary.LittleEndian.Uint64(rest[10:]),
		Name:   string(rest[18:]),
	}
	if !ValidName(token.Name) || token.Epoch == 0 {
		return Token{}, ErrToken
	}
	return token, nil
}

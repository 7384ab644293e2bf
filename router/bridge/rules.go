package bridge

import (
	"fmt"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// Outcomes of Finish: whether and why a call was refused before any user code ran.
const (
	OutcomeDone                uint16 = 0
	OutcomeRefusedSession      uint16 = 1
	OutcomeRefusedTool         uint16 = 2
	OutcomeRefusedDeadline     uint16 = 3
	OutcomeRefusedCancelled    uint16 = 4
	OutcomeRefusedSessionStart uint16 = 5
)

// Causes of Cancel.
const (
	CancelByCaller   uint16 = 1
	CancelByDeadline uint16 = 2
	CancelByDrain    uint16 = 3
)

// Statuses of SessionOpened.
const (
	OpenedOK     uint16 = 0
	OpenedRaised uint16 = 1
	OpenedFloor  uint16 = 2
)

// toRouter says which kinds each role may send after its Welcome.
var toRouter = map[bridgev1.Role][]Kind{
	bridgev1.Role_ROLE_DATA:       {KindAccepted, KindMessage, KindFinish, KindSessionOpened, KindSessionClosed, KindGoodbye},
	bridgev1.Role_ROLE_CONTROL:    {KindPing, KindPong, KindWindow, KindGoodbye},
	bridgev1.Role_ROLE_SUPERVISOR: {KindPing, KindPong, KindControl, KindGoodbye},
}

var allowed = func() map[bridgev1.Role]*[256]bool {
	m := map[bridgev1.Role]*[256]bool{}
	for role, kinds := range toRouter {
		t := &[256]bool{}
		for i := range t {
			t[i] = fixedBytes[i] < 0 // unknown kinds are ignored, or end their call
		}
		for _, k := range kinds {
			t[k] = true
		}
		m[role] = t
	}
	return m
}()

// callState is where a call stands; transitions are in next.
type callState uint8

const (
	callWritten callState = iota
	callAccepted
	callEnded
)

// next is the state after a frame of the worker, or an error when the frame breaks the rules.
func (s callState) next(f *Frame) (callState, error) {
	switch {
	case f.Kind == KindAccepted && s == callWritten:
		return callAccepted, nil
	case f.Kind == KindMessage && s == callAccepted:
		return callAccepted, nil
	case f.Kind == KindFinish && s == callAccepted && f.Outcome == OutcomeDone:
		return callEnded, nil
	case f.Kind == KindFinish && s == callWritten && f.Outcome != OutcomeDone:
		return callEnded, nil
	}
	return s, fmt.Errorf("frame of kind 0x%02x (outcome %d) in state %d of call %d", uint8(f.Kind), f.Outcome, s, f.ID)
}

// limits of a Hello.
const (
	maxTools        = 256
	maxToolName     = 128
	protocolVersion = 1
)

// checkHello reports why a Hello is refused; it does not look at the identity.
func checkHello(h *bridgev1.Hello) (bridgev1.GoodbyeReason, string) {
	ok := false
	for _, v := range h.GetVersions() {
		ok = ok || v == protocolVersion
	}
	if !ok {
		return bridgev1.GoodbyeReason_GOODBYE_REASON_VERSION, "this router speaks version 1 of the bridge only"
	}
	if allowed[h.GetRole()] == nil {
		return bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, "Hello names no role"
	}
	if h.GetIncarnation() == nil || h.GetIncarnation().GetSlot() >= 256 {
		return bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, "Hello names no incarnation with a slot of 0 to 255"
	}
	if len(h.GetTools()) > maxTools {
		return bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, "an adapter declares at most 256 tools"
	}
	for _, t := range h.GetTools() {
		if !validToolName(t.GetName()) {
			return bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR, "a tool's name has 1 to 128 of [A-Za-z_][A-Za-z0-9_.]*"
		}
	}
	return bridgev1.GoodbyeReason_GOODBYE_REASON_UNSPECIFIED, ""
}

func validToolName(name string) bool {
	if len(name) == 0 || len(name) > maxToolName {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c != '.' && (c < '0' || c > '9')) {
			return false
		}
	}
	return true
}

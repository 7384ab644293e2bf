package bridge

import (
	"fmt"
	"slices"

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
	bridgev1.Role_ROLE_DATA:       {KindAccepted, KindHeaders, KindMessage, KindFinish, KindSessionOpened, KindSessionClosed, KindGoodbye},
	bridgev1.Role_ROLE_CONTROL:    {KindPing, KindPong, KindWindow, KindRecalled, KindGoodbye},
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

// callState is where a call stands.
type callState uint8

const (
	callWritten   callState = iota // the worker may not have read it
	callMarked                     // the same, and only the marks tell when it begins
	callAccepted                   // user code may have run
	callAnswering                  // headers or a piece of an answer came
	callEnded
	callStates
)

// event is what may happen to a call.
type event uint8

const (
	onAccepted event = iota
	onHeaders
	onMessage
	onDone       // Finish, outcome 0
	onRefused    // Finish, another outcome
	onRecalled   // on CONTROL
	onReadToEnd  // the connection ended, and all that the worker had written was read
	onOtherEnd   // the connection ended otherwise
	onNeverWrote // the connection ended before anything of the Call was written to it
	onMarked     // the connection ended, and the worker's marks hold the call
	callEvents
)

// effect is what follows from an event.
type effect uint8

const (
	breaks  effect = iota // the frame breaks the rules: the connection is closed
	goesOn                // nothing beside the new state
	ignored               // the event means nothing any more
	ends                  // by the event's own meaning: done, refused
	proves                // ended, and nothing of it was begun
	doubts                // ended, and user code may have run
)

type move struct {
	to callState
	do effect
}

// callMoves is the table "States of a call at the router" of docs/bridge.md.
var callMoves = [callStates][callEvents]move{
	callWritten: {
		onAccepted: {callAccepted, goesOn}, onRefused: {callEnded, ends}, onRecalled: {callEnded, proves},
		onReadToEnd: {callEnded, proves}, onOtherEnd: {callEnded, doubts}, onNeverWrote: {callEnded, proves},
	},
	callMarked: {
		onHeaders: {callAnswering, goesOn}, onMessage: {callAnswering, goesOn}, onDone: {callEnded, ends}, onRefused: {callEnded, ends},
		onRecalled: {callEnded, proves}, onReadToEnd: {callEnded, proves}, onOtherEnd: {callEnded, doubts}, onNeverWrote: {callEnded, proves},
		onMarked: {callAccepted, goesOn},
	},
	callAccepted: {
		onHeaders: {callAnswering, goesOn}, onMessage: {callAnswering, goesOn}, onDone: {callEnded, ends}, onRecalled: {callAccepted, ignored},
		onReadToEnd: {callEnded, doubts}, onOtherEnd: {callEnded, doubts}, onNeverWrote: {callEnded, doubts},
	},
	callAnswering: {
		onMessage: {callAnswering, goesOn}, onDone: {callEnded, ends}, onRecalled: {callAnswering, ignored},
		onReadToEnd: {callEnded, doubts}, onOtherEnd: {callEnded, doubts}, onNeverWrote: {callEnded, doubts},
	},
	callEnded: {onRecalled: {callEnded, ignored}, onReadToEnd: {callEnded, ignored}, onOtherEnd: {callEnded, ignored}, onNeverWrote: {callEnded, ignored}},
}

// eventOf a frame of the worker.
func eventOf(f *Frame) event {
	switch f.Kind {
	case KindAccepted:
		return onAccepted
	case KindHeaders:
		return onHeaders
	case KindMessage:
		return onMessage
	case KindRecalled:
		return onRecalled
	}
	if f.Outcome == OutcomeDone {
		return onDone
	}
	return onRefused
}

// limits of a Hello.
const (
	maxTools       = 256
	maxToolName    = 128
	maxMethods     = 1024
	maxMethodPath  = 256
	maxWorkerSlots = 256
	oldestVersion  = 1
	newestVersion  = 2
)

// commonVersion is the highest version that the sender of the Hello and this router speak; 0 for none.
func commonVersion(h *bridgev1.Hello) uint32 {
	best := uint32(0)
	for _, v := range h.GetVersions() {
		if v >= oldestVersion && v <= newestVersion && v > best {
			best = v
		}
	}
	return best
}

// checkHello reports why a Hello is refused; it does not look at the identity.
func checkHello(h *bridgev1.Hello) (bridgev1.GoodbyeReason, string) {
	broken := bridgev1.GoodbyeReason_GOODBYE_REASON_PROTOCOL_ERROR
	switch {
	case commonVersion(h) == 0:
		return bridgev1.GoodbyeReason_GOODBYE_REASON_VERSION, "this router speaks versions 1 and 2 of the bridge only"
	case allowed[h.GetRole()] == nil:
		return broken, "Hello names no role"
	case h.GetIncarnation() == nil || h.GetIncarnation().GetSlot() >= 256:
		return broken, "Hello names no incarnation with a slot of 0 to 255"
	case len(h.GetTools()) > maxTools:
		return broken, "an adapter declares at most 256 tools"
	case slices.ContainsFunc(h.GetTools(), func(t *bridgev1.Tool) bool { return !validToolName(t.GetName()) }):
		return broken, "a tool's name has 1 to 128 of [A-Za-z_][A-Za-z0-9_.]*"
	}
	if commonVersion(h) < 2 {
		return bridgev1.GoodbyeReason_GOODBYE_REASON_UNSPECIFIED, ""
	}
	switch {
	case h.GetSlots() > maxWorkerSlots:
		return broken, fmt.Sprintf("a worker has at most %d slots", maxWorkerSlots)
	case len(h.GetMethods()) > maxMethods:
		return broken, fmt.Sprintf("an adapter declares at most %d methods", maxMethods)
	case slices.ContainsFunc(h.GetMethods(), func(m *bridgev1.Method) bool { return !validMethodPath(m.GetPath()) }):
		return broken, "a method's path is /package.Service/Method, in at most 256 printable ASCII bytes"
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

// validMethodPath: a service and a method, each of at least one printable ASCII byte, no slash in the method.
func validMethodPath(path string) bool {
	if len(path) > maxMethodPath || len(path) < 4 || path[0] != '/' {
		return false
	}
	slashes := 0
	for i := 1; i < len(path); i++ {
		switch c := path[i]; {
		case c <= ' ' || c >= 0x7f:
			return false
		case c == '/' && (i == 1 || i == len(path)-1):
			return false
		case c == '/':
			slashes++
		}
	}
	return slashes == 1
}

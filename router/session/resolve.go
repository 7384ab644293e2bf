package session

import "time"

// Verdict answers a call that names a session.
type Verdict uint8

const (
	// Join the life that is there.
	Join Verdict = iota + 1
	// Start a life.
	Start
	// StartAgain starts a life of a name whose last life was lost; the caller is told "rebound".
	StartAgain
	// Unknown says that nothing of that name lives, and this call may not start it.
	Unknown
	// Lost says that the life ended without its caller's wish.
	Lost
	// Expired says that the life ended, by its caller, by idleness or by a move.
	Expired
	// Recovering says that the table is not complete yet, or it is not proven who else serves.
	Recovering
)

// state of a name.
type state uint8

const (
	absent state = iota
	lost         // absent, and the loss is not acknowledged
	waiting
	bound
	states
)

// ask is what a call wants, in classes.
type ask uint8

const (
	askJoin          ask = iota // a name, and creation is Explicit
	askImplicit                 // a name, and any call may create
	askImplicitHint             // the same where the life may move
	askCreate                   // a name with snakepit-session-create
	askTokenCurrent             // the token of the life that is there
	askTokenLiving              // the token of another life at an incarnation that lives
	askTokenGone                // the token of a lost life: its incarnation is proven gone, or the loss is on record
	askTokenForeign             // the token of another pod, while this pod is proven to be the only one
	askTokenUnproven            // the token of another pod, which may live
	asks
)

// verdicts is the whole affinity contract for look-ups: every state × every class of call.
var verdicts = [states][asks]Verdict{
	absent: {
		askJoin: Unknown, askImplicit: Start, askImplicitHint: Start, askCreate: Start,
		askTokenCurrent: Expired, askTokenLiving: Expired, askTokenGone: Lost, askTokenForeign: Lost, askTokenUnproven: Recovering,
	},
	lost: {
		askJoin: Lost, askImplicit: Lost, askImplicitHint: StartAgain, askCreate: StartAgain,
		askTokenCurrent: Expired, askTokenLiving: Expired, askTokenGone: Lost, askTokenForeign: Lost, askTokenUnproven: Recovering,
	},
	waiting: {
		askJoin: Join, askImplicit: Join, askImplicitHint: Join, askCreate: Join,
		askTokenCurrent: Expired, askTokenLiving: Expired, askTokenGone: Lost, askTokenForeign: Lost, askTokenUnproven: Recovering,
	},
	bound: {
		askJoin: Join, askImplicit: Join, askImplicitHint: Join, askCreate: Join,
		askTokenCurrent: Join, askTokenLiving: Expired, askTokenGone: Lost, askTokenForeign: Lost, askTokenUnproven: Recovering,
	},
}

// Question is a call's claim on a session.
type Question struct {
	Name     string
	Token    *Token // nil when the caller sent none
	Create   bool   // snakepit-session-create
	Implicit bool   // any call may create
	Movable  bool   // the call's affinity is Hint
}

// Resolve answers a question. Join comes with the life. Lost comes with what is known of the loss. Showing the token of a lost life acknowledges the
// loss, so that the name is free again; each other caller that shows it is told the same.
func (t *Table) Resolve(q Question, _ time.Time) (Verdict, *Life, Loss) {
	life := t.lives.get(q.Name)
	var untold uint64
	hasUntold := false
	if len(t.untold) > 0 {
		untold, hasUntold = t.untold[q.Name]
	}
	st := absent
	switch {
	case life != nil && life.owner != nil:
		st = bound
	case life != nil:
		st = waiting
	case hasUntold:
		st = lost
	}
	class := t.classify(q, life)
	verdict := verdicts[st][class]
	switch verdict {
	case Join:
		return verdict, life, Loss{}
	case Lost:
		if q.Token == nil {
			return verdict, nil, t.lost[untold]
		}
		known := Loss{Pod: q.Token.Pod, Worker: q.Token.Worker, Epoch: q.Token.Epoch, Cause: CauseWorkerGone}
		if class == askTokenForeign {
			known.Cause = CausePodReplaced
		}
		if record, ok := t.recorded(q.Token); ok {
			known = record
			if hasUntold && untold == q.Token.Epoch {
				delete(t.untold, q.Name)
			}
		}
		return verdict, nil, known
	}
	return verdict, nil, Loss{}
}

func (t *Table) classify(q Question, life *Life) ask {
	if q.Token != nil {
		switch {
		case q.Token.Pod != t.pod && t.sole:
			return askTokenForeign
		case q.Token.Pod != t.pod:
			return askTokenUnproven
		case life != nil && life.owner != nil && life.epoch == q.Token.Epoch && life.owner.ID == q.Token.Worker:
			return askTokenCurrent
		case t.owners[q.Token.Worker] == nil:
			return askTokenGone
		}
		if _, ok := t.recorded(q.Token); ok { // lost by a drain: its worker may live on
			return askTokenGone
		}
		return askTokenLiving
	}
	switch {
	case q.Create:
		return askCreate
	case q.Implicit && q.Movable:
		return askImplicitHint
	case q.Implicit:
		return askImplicit
	}
	return askJoin
}

// recorded is what is known of the loss of the token's life. A token of another pod has none: epochs are this pod's own.
func (t *Table) recorded(token *Token) (Loss, bool) {
	loss, ok := t.lost[token.Epoch]
	return loss, ok && token.Pod == t.pod && loss.Worker == token.Worker
}

package session

// MaxPending bounds the calls of a life, queued and running.
const MaxPending = 1<<16 - 1

// Life is one life of a session. It is kept at 64 bytes: a router holds up to a million of them.
type Life struct {
	name      string
	owner     *Owner
	prev      *Life
	next      *Life
	epoch     uint64
	idleSince int64  // nanoseconds since the table's base
	pending   uint16 // calls queued or running
	queued    uint16 // calls queued
	marks     uint32 // flags, and above them the tag
}

const (
	flagStrict uint32 = 1 << iota // a strict call bound it: it never moves
	flagHeld                      // a call was accepted, or its token was given out: it may hold state
	flagOpened                    // SessionOpen was written to the owner
	flagAgain                     // a life of this name was lost or moved before
	flagEnded                     // no longer in the table
	flagLost                      // it ended by a loss
)

const tagShift = 8

// Name of the session.
func (l *Life) Name() string { return l.name }

// Epoch of this life; 0 while no worker has it.
func (l *Life) Epoch() uint64 { return l.epoch }

// Owner is the worker that holds it; nil while no worker has pulled its first call, and after its end.
func (l *Life) Owner() *Owner { return l.owner }

// Pending counts its calls, queued and running.
func (l *Life) Pending() int { return int(l.pending) }

// Queued counts its calls that wait.
func (l *Life) Queued() int { return int(l.queued) }

// Strict lives never move.
func (l *Life) Strict() bool { return l.marks&flagStrict != 0 }

// Held says that the life may hold state: a call was accepted in it, or its token was given out.
func (l *Life) Held() bool { return l.marks&flagHeld != 0 }

// Opened says that its owner was told to open it.
func (l *Life) Opened() bool { return l.marks&flagOpened != 0 }

// Again says that an earlier life of this name was lost or moved.
func (l *Life) Again() bool { return l.marks&flagAgain != 0 }

// Ended says that the life is over.
func (l *Life) Ended() bool { return l.marks&flagEnded != 0 }

// Lost says that it ended without its caller's wish.
func (l *Life) Lost() bool { return l.marks&flagLost != 0 }

// Running says that a worker has a call of it, or is being sent one.
func (l *Life) Running() bool { return l.pending > l.queued }

// Tag is the number that SetTag left with the life; 0 at first. This package does not look at it.
func (l *Life) Tag() uint32 { return l.marks >> tagShift }

// SetTag leaves a number below 1<<24 with the life, for whoever keeps the calls of lives.
func (l *Life) SetTag(tag uint32) { l.marks = l.marks&(1<<tagShift-1) | tag<<tagShift }

// SetStrict keeps the life where it is from now on.
func (l *Life) SetStrict() { l.marks |= flagStrict }

// SetHeld notes that the life may hold state from now on.
func (l *Life) SetHeld() { l.marks |= flagHeld }

// SetOpened notes that SessionOpen is being written to the owner.
func (l *Life) SetOpened() { l.marks |= flagOpened }

// ClearOpened notes that the owner may not know the life.
func (l *Life) ClearOpened() { l.marks &^= flagOpened }

// Owner is one incarnation that may hold lives.
type Owner struct {
	ID     Worker
	Holder any  // what the caller knows the incarnation as; this package does not look at it
	idle   list // oldest first
	busy   list
	count  int
}

// Sessions counts the lives it holds.
func (o *Owner) Sessions() int { return o.count }

// list is an intrusive list of lives: a life is in exactly one.
type list struct{ head, tail *Life }

func (l *list) push(x *Life) {
	x.prev, x.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = x
	} else {
		l.head = x
	}
	l.tail = x
}

func (l *list) remove(x *Life) {
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		l.head = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		l.tail = x.prev
	}
	x.prev, x.next = nil, nil
}

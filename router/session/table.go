package session

import (
	"slices"
	"time"
)

// Causes of a loss, as callers are told them.
const (
	CauseWorkerGone  = "WORKER_GONE"
	CausePodReplaced = "POD_REPLACED"
	CauseScaledDown  = "SCALED_DOWN"
	CauseDrained     = "DRAINED"
	CauseRecycled    = "RECYCLED"
)

// maxLosses bounds the loss records; the oldest are dropped first.
const maxLosses = 1 << 16

// Loss says what is known of a lost life.
type Loss struct {
	Pod    string
	Cause  string
	Worker Worker
	Epoch  uint64
}

type lossEntry struct {
	name  string
	epoch uint64
	until int64
}

// Table holds the lives of one group.
type Table struct {
	base    time.Time
	pod     string
	sole    bool
	lives   *index
	lost    map[uint64]Loss   // by epoch, which no two lives of a pod share: what a token of that life is told, as often as it is shown
	untold  map[string]uint64 // the epoch of a name's last life, if that was lost and nobody has acknowledged it
	order   []lossEntry       // by until
	owners  map[Worker]*Owner
	highest uint64
}

// NewTable makes an empty table of the pod; base is any time before the first event.
func NewTable(pod string, base time.Time) *Table {
	return &Table{
		base: base, pod: pod,
		lives: newIndex(), lost: map[uint64]Loss{}, untold: map[string]uint64{}, owners: map[Worker]*Owner{},
	}
}

// Pod is the UID of the pod that the table belongs to.
func (t *Table) Pod() string { return t.pod }

// SetSole says whether this pod is proven to be the only one of its group: then a token of another pod is a lost life.
func (t *Table) SetSole(sole bool) { t.sole = sole }

// Sessions counts the lives, waiting ones included.
func (t *Table) Sessions() int { return t.lives.n }

// Losses counts the records of losses that were not acknowledged yet.
func (t *Table) Losses() int { return len(t.untold) }

// Token of a bound life.
func (t *Table) Token(l *Life) Token {
	return Token{Pod: t.pod, Worker: l.owner.ID, Epoch: l.epoch, Name: l.name}
}

// Life of that name, or nil. For reports only: decisions go through Resolve.
func (t *Table) Life(name string) *Life { return t.lives.get(name) }

// AddOwner makes an incarnation known as living.
func (t *Table) AddOwner(id Worker) *Owner {
	if o := t.owners[id]; o != nil {
		return o
	}
	o := &Owner{ID: id}
	t.owners[id] = o
	return o
}

// RemoveOwner notes that the incarnation is proven gone. It must hold no life any more.
func (t *Table) RemoveOwner(o *Owner) {
	if t.owners[o.ID] == o && o.count == 0 {
		delete(t.owners, o.ID)
	}
}

// Start makes a life that waits for a worker. The name must be absent. It acknowledges an earlier loss.
func (t *Table) Start(name string, again bool) *Life {
	delete(t.untold, name)
	l := &Life{name: name}
	if again {
		l.marks |= flagAgain
	}
	t.lives.put(l)
	return l
}

// Bind gives a waiting life to an owner, with a new epoch: max(unix µs, highest epoch seen + 1).
func (t *Table) Bind(l *Life, o *Owner, now time.Time) {
	epoch := t.highest + 1
	if micro := now.UnixMicro(); micro > 0 && uint64(micro) > epoch {
		epoch = uint64(micro)
	}
	t.highest = epoch
	l.epoch = epoch
	t.attach(l, o, now)
}

// Unbind takes a life from its owner so that it waits for another one. Only a life that holds nothing, or may move, is unbound.
func (t *Table) Unbind(l *Life, moved bool) {
	t.detach(l)
	l.epoch = 0
	l.marks &^= flagOpened | flagHeld
	if moved {
		l.marks |= flagAgain
	}
}

// Adopt enters a life that a worker was found to hold. When another worker holds that name, the higher epoch stays and the other is returned:
// the life that must be closed, as its owner and epoch. Its name may be held already by the same life; then nothing happens.
func (t *Table) Adopt(name string, o *Owner, epoch uint64, now time.Time) (adopted *Life, loser *Owner, loserEpoch uint64) {
	t.Raise(epoch)
	if l := t.lives.get(name); l != nil {
		switch {
		case l.owner == o && l.epoch == epoch:
			return nil, nil, 0
		case l.epoch > epoch || l.owner == nil || l.pending > 0:
			return nil, o, epoch
		}
		loser, loserEpoch = l.owner, l.epoch
		t.End(l)
	}
	delete(t.untold, name)
	l := &Life{name: name, epoch: epoch, marks: flagHeld | flagOpened}
	t.lives.put(l)
	t.attach(l, o, now)
	return l, loser, loserEpoch
}

// Raise makes every later epoch greater than this one.
func (t *Table) Raise(epoch uint64) { t.highest = max(t.highest, epoch) }

// Queue counts a call that begins to wait for, or to run in, the life.
func (t *Table) Queue(l *Life) {
	l.queued++
	l.pending++
	if l.pending == 1 && l.owner != nil {
		l.owner.idle.remove(l)
		l.owner.busy.push(l)
	}
}

// Run counts a queued call as running.
func (t *Table) Run(l *Life) { l.queued-- }

// Requeue counts a running call as queued again.
func (t *Table) Requeue(l *Life) { l.queued++ }

// Done counts a call out. A waiting life without calls ends; a bound one becomes idle.
func (t *Table) Done(l *Life, queued bool, now time.Time) {
	if queued {
		l.queued--
	}
	l.pending--
	if l.pending > 0 || l.Ended() {
		return
	}
	if l.owner == nil {
		t.End(l)
		return
	}
	l.owner.busy.remove(l)
	l.idleSince = t.instant(now)
	l.owner.idle.push(l)
}

// End removes a life: closed by its caller, idle, moved or refused.
func (t *Table) End(l *Life) {
	if l.Ended() {
		return
	}
	t.detach(l)
	l.marks |= flagEnded
	t.lives.remove(l)
}

// Lose ends a life and keeps a record of it for ttl.
func (t *Table) Lose(l *Life, cause string, ttl time.Duration, now time.Time) Loss {
	known := Loss{Pod: t.pod, Worker: l.owner.ID, Epoch: l.epoch, Cause: cause}
	t.End(l)
	l.marks |= flagLost
	t.untold[l.name] = l.epoch
	t.record(l.name, known, t.instant(now.Add(ttl)))
	return known
}

// Remember enters a loss that an earlier router told, for ttl from now. Nothing happens when it is on record. begunAgain says that the name has lived
// since, so that only the token of the lost life is told.
func (t *Table) Remember(name string, loss Loss, begunAgain bool, ttl time.Duration, now time.Time) {
	t.Raise(loss.Epoch)
	if _, known := t.lost[loss.Epoch]; known || ttl <= 0 {
		return
	}
	if !begunAgain && t.lives.get(name) == nil && t.untold[name] < loss.Epoch {
		t.untold[name] = loss.Epoch
	}
	t.record(name, loss, t.instant(now.Add(ttl)))
}

func (t *Table) record(name string, loss Loss, until int64) {
	t.lost[loss.Epoch] = loss
	at := len(t.order)
	for at > 0 && t.order[at-1].until > until {
		at--
	}
	t.order = slices.Insert(t.order, at, lossEntry{name, loss.Epoch, until})
	for len(t.order) > maxLosses {
		t.dropOldestLoss()
	}
}

// Lives calls f for every life of the owner; f may end or unbind it.
func (t *Table) Lives(o *Owner, f func(*Life)) {
	for _, l := range []*list{&o.busy, &o.idle} {
		for x := l.head; x != nil; {
			next := x.next
			f(x)
			x = next
		}
	}
}

// Expired calls f for every life of the owner that has been idle for at least timeout; f must end it.
func (t *Table) Expired(o *Owner, timeout time.Duration, now time.Time, f func(*Life)) {
	limit := t.instant(now) - int64(timeout)
	for x := o.idle.head; x != nil && x.idleSince <= limit; {
		next := x.next
		f(x)
		x = next
	}
}

// ForgetLosses drops the records whose time is over.
func (t *Table) ForgetLosses(now time.Time) {
	instant := t.instant(now)
	for len(t.order) > 0 && t.order[0].until <= instant {
		t.dropOldestLoss()
	}
}

func (t *Table) dropOldestLoss() {
	if len(t.order) == 0 {
		return
	}
	e := t.order[0]
	t.order = t.order[1:]
	if t.untold[e.name] == e.epoch {
		delete(t.untold, e.name)
	}
	delete(t.lost, e.epoch)
}

func (t *Table) attach(l *Life, o *Owner, now time.Time) {
	l.owner = o
	o.count++
	if l.pending > 0 {
		o.busy.push(l)
		return
	}
	l.idleSince = t.instant(now)
	o.idle.push(l)
}

func (t *Table) detach(l *Life) {
	if l.owner == nil {
		return
	}
	if l.pending > 0 {
		l.owner.busy.remove(l)
	} else {
		l.owner.idle.remove(l)
	}
	l.owner.count--
	l.owner = nil
}

// instant is monotonic where the times are: a stepped wall clock neither ends nor prolongs a life.
func (t *Table) instant(now time.Time) int64 { return int64(now.Sub(t.base)) }

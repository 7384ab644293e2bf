package session

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// known is what the model keeps of a name that lives.
type known struct {
	life            *Life
	owner           *Owner
	epoch           uint64
	queued, running int
	idle            time.Time
}

// record is what the model keeps of a loss.
type record struct {
	token  Token
	until  time.Time
	untold bool
}

// model is the session table as one would write it without regard to speed or memory.
type model struct {
	table   *Table
	now     time.Time
	names   []string
	lives   map[string]*known
	losses  []*record // oldest first
	owners  []*Owner
	tokens  []Token
	highest uint64
	nonce   uint64
}

func newModel() *model {
	m := &model{table: NewTable("pod", start), now: start, lives: map[string]*known{}}
	for i := range 40 { // more than the smallest shards have room for
		m.names = append(m.names, fmt.Sprint("s", i))
	}
	m.addOwner()
	m.addOwner()
	return m
}

func (m *model) addOwner() {
	m.nonce++
	m.owners = append(m.owners, m.table.AddOwner(Worker{Slot: uint16(m.nonce % 4), Nonce: m.nonce}))
}

func (m *model) living(t *rapid.T, keep func(*known) bool) *known {
	for _, i := range rapid.Permutation(m.names).Draw(t, "names") {
		if k := m.lives[i]; k != nil && keep(k) {
			return k
		}
	}
	t.Skip("no such life")
	return nil
}

// verdict re-derives the affinity contract from its sentences.
func (m *model) verdict(q Question) Verdict {
	k := m.lives[q.Name]
	lost := k == nil && m.untold(q.Name) != nil
	if q.Token != nil {
		switch {
		case q.Token.Pod != "pod":
			return Recovering // not proven to be the only one
		case k != nil && k.owner != nil && k.epoch == q.Token.Epoch && k.owner.ID == q.Token.Worker:
			return Join
		case slices.ContainsFunc(m.losses, func(r *record) bool { return r.token == *q.Token }):
			return Lost
		case slices.ContainsFunc(m.owners, func(o *Owner) bool { return o.ID == q.Token.Worker }):
			return Expired
		}
		return Lost
	}
	switch {
	case k != nil:
		return Join
	case lost && (q.Create || q.Implicit && q.Movable):
		return StartAgain
	case lost:
		return Lost
	case q.Create || q.Implicit:
		return Start
	}
	return Unknown
}

// untold is the loss that a name is told, if any.
func (m *model) untold(name string) *record {
	for _, r := range m.losses {
		if r.untold && r.token.Name == name {
			return r
		}
	}
	return nil
}

// acknowledge the loss that the name is told, if any.
func (m *model) acknowledge(name string) {
	if r := m.untold(name); r != nil {
		r.untold = false
	}
}

func (m *model) lose(k *known, ttl time.Duration) {
	m.acknowledge(k.life.Name()) // the later loss is told in its place
	m.losses = append(m.losses, &record{Token{Pod: "pod", Worker: k.owner.ID, Epoch: k.epoch, Name: k.life.Name()}, m.now.Add(ttl), true})
	m.table.Lose(k.life, CauseWorkerGone, ttl, m.now)
	delete(m.lives, k.life.Name())
}

func (m *model) commands() map[string]func(*rapid.T) {
	any := func(*known) bool { return true }
	return map[string]func(*rapid.T){
		"ask":  m.ask,
		"ask2": m.ask,
		"bind": func(t *rapid.T) {
			k := m.living(t, func(k *known) bool { return k.owner == nil })
			k.owner = rapid.SampledFrom(m.owners).Draw(t, "owner")
			m.table.Bind(k.life, k.owner, m.now)
			k.epoch, k.idle = k.life.Epoch(), m.now
			if k.epoch <= m.highest {
				t.Fatalf("epoch %d after %d", k.epoch, m.highest)
			}
			m.highest = k.epoch
			m.tokens = append(m.tokens, m.table.Token(k.life))
		},
		"queue": func(t *rapid.T) {
			k := m.living(t, any)
			k.queued++
			m.table.Queue(k.life)
		},
		"run": func(t *rapid.T) {
			k := m.living(t, func(k *known) bool { return k.owner != nil && k.queued > 0 })
			k.queued--
			k.running++
			m.table.Run(k.life)
		},
		"done": func(t *rapid.T) {
			k := m.living(t, func(k *known) bool { return k.queued+k.running > 0 })
			queued := k.running == 0
			if queued {
				k.queued--
			} else {
				k.running--
			}
			m.table.Done(k.life, queued, m.now)
			k.idle = m.now
			if k.queued+k.running == 0 && k.owner == nil {
				delete(m.lives, k.life.Name())
			}
		},
		"end": func(t *rapid.T) {
			k := m.living(t, any)
			m.table.End(k.life)
			delete(m.lives, k.life.Name())
		},
		"lose": func(t *rapid.T) {
			m.lose(m.living(t, func(k *known) bool { return k.owner != nil }), 10*time.Minute)
		},
		"owner goes": func(t *rapid.T) {
			i := rapid.IntRange(0, len(m.owners)-1).Draw(t, "owner")
			o := m.owners[i]
			m.table.Lives(o, func(l *Life) { m.lose(m.lives[l.Name()], 10*time.Minute) })
			m.table.RemoveOwner(o)
			m.owners = slices.Delete(m.owners, i, i+1)
			m.addOwner()
		},
		"idle": func(t *rapid.T) {
			o, timeout := rapid.SampledFrom(m.owners).Draw(t, "owner"), time.Duration(rapid.IntRange(0, 60).Draw(t, "s"))*time.Second
			last := time.Time{}
			m.table.Expired(o, timeout, m.now, func(l *Life) {
				k := m.lives[l.Name()]
				if k == nil || k.life != l || k.owner != o || k.queued+k.running > 0 || m.now.Sub(k.idle) < timeout || k.idle.Before(last) {
					t.Fatalf("%q expires: %+v", l.Name(), k)
				}
				last = k.idle
				m.table.End(l)
				delete(m.lives, l.Name())
			})
			for name, k := range m.lives {
				if k.owner == o && k.queued+k.running == 0 && m.now.Sub(k.idle) >= timeout {
					t.Fatalf("%q does not expire", name)
				}
			}
		},
		"time": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.IntRange(1, 400).Draw(t, "s")) * time.Second)
			m.table.ForgetLosses(m.now)
			m.losses = slices.DeleteFunc(m.losses, func(r *record) bool { return !m.now.Before(r.until) })
		},
		"restart": m.restart,
		"":        m.check,
	}
}

// restart makes the table anew from what supervisors keep: the lives that workers hold, and the losses with whether their names were opened since.
func (m *model) restart(*rapid.T) {
	m.now = m.now.Add(time.Second)
	m.table = NewTable("pod", start)
	for i, o := range m.owners {
		m.owners[i] = m.table.AddOwner(o.ID)
		for name, k := range m.lives {
			if k.owner == o {
				m.table.Adopt(name, m.owners[i], k.epoch, m.now)
				m.lives[name] = &known{life: m.table.Life(name), owner: m.owners[i], epoch: k.epoch, idle: m.now}
			}
		}
	}
	maps.DeleteFunc(m.lives, func(_ string, k *known) bool { return k.owner == nil })
	for _, r := range m.losses {
		again := slices.ContainsFunc(m.tokens, func(t Token) bool { return t.Name == r.token.Name && t.Epoch > r.token.Epoch })
		r.untold = !again
		for range 2 { // the second time, it is known
			m.table.Remember(r.token.Name, Loss{Pod: "pod", Worker: r.token.Worker, Epoch: r.token.Epoch, Cause: CauseDrained}, again, r.until.Sub(m.now), m.now)
		}
	}
	m.losses = slices.DeleteFunc(m.losses, func(r *record) bool { return !m.now.Before(r.until) })
}

func (m *model) ask(t *rapid.T) {
	q := Question{Name: rapid.SampledFrom(m.names).Draw(t, "name"), Create: rapid.Bool().Draw(t, "create"),
		Implicit: rapid.Bool().Draw(t, "implicit"), Movable: rapid.Bool().Draw(t, "movable")}
	if len(m.tokens) > 0 && rapid.Bool().Draw(t, "with token") {
		token := rapid.SampledFrom(m.tokens).Draw(t, "token")
		if rapid.IntRange(0, 9).Draw(t, "other pod") == 0 {
			token.Pod = "other"
		}
		q.Token, q.Name = &token, token.Name
	}
	want := m.verdict(q)
	got, life, loss := m.table.Resolve(q, m.now)
	if got != want {
		t.Fatalf("%+v: verdict %d, want %d", q, got, want)
	}
	switch got {
	case Join:
		if life != m.lives[q.Name].life {
			t.Fatalf("joined another life")
		}
	case Start, StartAgain:
		m.lives[q.Name] = &known{life: m.table.Start(q.Name, got == StartAgain)}
		m.table.Queue(m.lives[q.Name].life)
		m.lives[q.Name].queued++
		m.acknowledge(q.Name)
	case Lost:
		r := m.untold(q.Name)
		switch {
		case q.Token == nil && loss.Epoch != r.token.Epoch:
			t.Fatalf("tells of epoch %d, lost was %d", loss.Epoch, r.token.Epoch)
		case q.Token != nil && loss.Epoch != q.Token.Epoch:
			t.Fatalf("tells of epoch %d, the token's is %d", loss.Epoch, q.Token.Epoch)
		case q.Token != nil && r != nil && r.token == *q.Token:
			m.acknowledge(q.Name)
		}
	}
}

func (m *model) check(t *rapid.T) {
	untold := 0
	for _, r := range m.losses {
		if r.untold {
			untold++
		}
	}
	if m.table.Sessions() != len(m.lives) || m.table.Losses() != untold {
		t.Fatalf("%d sessions and %d losses, the model %d and %d", m.table.Sessions(), m.table.Losses(), len(m.lives), untold)
	}
	counts := map[*Owner]int{}
	for _, name := range m.names {
		k, l := m.lives[name], m.table.Life(name)
		if k == nil {
			if l != nil {
				t.Fatalf("%q lives", name)
			}
			continue
		}
		if l != k.life || l.Owner() != k.owner || l.Queued() != k.queued || l.Pending() != k.queued+k.running || l.Running() != (k.running > 0) {
			t.Fatalf("%q: %+v, the model %+v", name, l, k)
		}
		counts[k.owner]++
	}
	for _, o := range m.owners {
		if o.Sessions() != counts[o] {
			t.Fatalf("%d sessions of one worker, the model %d", o.Sessions(), counts[o])
		}
	}
}

func TestTheTableEqualsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { t.Repeat(newModel().commands()) })
}

// Names come and go; those that live are found, the others are not, and memory follows.
func TestTheIndexFindsWhatIsIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x, in := newIndex(), map[string]*Life{}
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			most := rapid.IntRange(1, 20_000).Draw(t, "most")
			for i := range most {
				l := &Life{name: fmt.Sprint(i)}
				x.put(l)
				in[l.name] = l
			}
			gone := rapid.IntRange(0, most).Draw(t, "gone")
			for i := range gone {
				x.remove(&Life{name: fmt.Sprint(i)}) // another life of that name
				x.remove(in[fmt.Sprint(i)])
				delete(in, fmt.Sprint(i))
			}
			slots := 0
			for i := range x.shards {
				slots += len(x.shards[i].slots)
			}
			if x.n != len(in) || slots > 16*x.n+len(x.shards)*minShard {
				t.Fatalf("%d entries, want %d; %d slots", x.n, len(in), slots)
			}
			for i := range most {
				if name := fmt.Sprint(i); x.get(name) != in[name] {
					t.Fatalf("%s: %v", name, x.get(name))
				}
			}
		}
	})
}

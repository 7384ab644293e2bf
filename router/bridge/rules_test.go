package bridge

import (
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	bridgev1 "github.com/snakepit-k8s/snakepit/api/bridge/v1alpha1"
)

// The table in code is the one in docs/bridge.md.
func TestCallTableIsTheSpecified(t *testing.T) {
	text, err := os.ReadFile("../../docs/bridge.md")
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]callState{"written": callWritten, "written, marked": callMarked, "accepted": callAccepted, "answering": callAnswering}
	columns := []event{onAccepted, onHeaders, onMessage, onDone, onRefused, onRecalled, onReadToEnd, onOtherEnd}
	rows := 0
	_, table, _ := strings.Cut(string(text), "States of a call at the router")
	table, _, _ = strings.Cut(table, "States of a call at the worker")
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		state, ok := states[strings.TrimSpace(cells[0])]
		if !ok || len(cells) != 1+len(columns) {
			continue
		}
		rows++
		for i, e := range columns {
			want := specified(strings.TrimSpace(cells[i+1]), state)
			if got := callMoves[state][e]; got != want {
				t.Errorf("state %d, event %d: %+v, docs/bridge.md says %q", state, e, got, cells[i+1])
			}
		}
	}
	if rows != len(states) {
		t.Fatalf("found %d rows of the table", rows)
	}
}

func specified(cell string, from callState) move {
	switch cell {
	case "error":
		return move{}
	case "ignored":
		return move{from, ignored}
	case "stays":
		return move{from, goesOn}
	case "→ accepted":
		return move{callAccepted, goesOn}
	case "→ answering":
		return move{callAnswering, goesOn}
	case "→ ended, DONE", "→ ended, refused":
		return move{callEnded, ends}
	case "→ ended, NOT_STARTED":
		return move{callEnded, proves}
	}
	return move{callEnded, doubts}
}

// Every order of events: a call ends once, nothing moves it afterwards, and it is proven not to have begun only before Accepted.
func TestACallEndsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &Call{}
		c.Init(nil, make(chan struct{}, 1))
		if rapid.Bool().Draw(t, "marks") {
			c.state = callMarked
		}
		endings, accepted := 0, false
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			e := event(rapid.IntRange(0, int(callEvents)-1).Draw(t, "event"))
			before := c.state
			do := c.step(e)
			switch do {
			case breaks, ignored:
				if c.state != before {
					t.Fatalf("event %d moved the call from %d to %d", e, before, c.state)
				}
			case goesOn:
				accepted = accepted || e == onAccepted || e == onMarked
			case proves:
				if accepted {
					t.Fatalf("event %d proves that an accepted call never began", e)
				}
				endings++
			case ends, doubts:
				endings++
			}
			if (do == ends || do == proves || do == doubts) != (before != callEnded && c.state == callEnded) {
				t.Fatalf("event %d in state %d: effect %d, state %d", e, before, do, c.state)
			}
		}
		if endings > 1 {
			t.Fatalf("%d ends", endings)
		}
	})
}

func TestHelloBounds(t *testing.T) {
	good := func() *bridgev1.Hello {
		return &bridgev1.Hello{Role: bridgev1.Role_ROLE_DATA, Versions: []uint32{1, 2}, Incarnation: &bridgev1.Incarnation{Slot: 255}, Slots: 256,
			Methods: []*bridgev1.Method{{Path: "/a.B/C"}}, Tools: []*bridgev1.Tool{{Name: "t"}}}
	}
	if _, why := checkHello(good()); why != "" {
		t.Fatal(why)
	}
	methods := make([]*bridgev1.Method, 1025)
	for i := range methods {
		methods[i] = &bridgev1.Method{Path: "/a.B/C"}
	}
	for name, change := range map[string]func(*bridgev1.Hello){
		"no version":        func(h *bridgev1.Hello) { h.Versions = nil },
		"only later ones":   func(h *bridgev1.Hello) { h.Versions = []uint32{3, 0} },
		"no role":           func(h *bridgev1.Hello) { h.Role = 0 },
		"slot 256":          func(h *bridgev1.Hello) { h.Incarnation.Slot = 256 },
		"257 slots":         func(h *bridgev1.Hello) { h.Slots = 257 },
		"1,025 methods":     func(h *bridgev1.Hello) { h.Methods = methods },
		"257 tools":         func(h *bridgev1.Hello) { h.Tools = make([]*bridgev1.Tool, 257) },
		"a bad tool":        func(h *bridgev1.Hello) { h.Tools[0].Name = "a b" },
		"no slash":          func(h *bridgev1.Hello) { h.Methods[0].Path = "a.B/C" },
		"no method":         func(h *bridgev1.Hello) { h.Methods[0].Path = "/a.B/" },
		"no service":        func(h *bridgev1.Hello) { h.Methods[0].Path = "//C" },
		"three parts":       func(h *bridgev1.Hello) { h.Methods[0].Path = "/a/B/C" },
		"a space":           func(h *bridgev1.Hello) { h.Methods[0].Path = "/a.B/C D" },
		"a path too long":   func(h *bridgev1.Hello) { h.Methods[0].Path = "/a.B/" + strings.Repeat("x", 252) },
		"a path of nothing": func(h *bridgev1.Hello) { h.Methods[0].Path = "" },
	} {
		h := good()
		change(h)
		if _, why := checkHello(h); why == "" {
			t.Errorf("accepted: %s", name)
		}
	}
	old := good()
	old.Versions, old.Slots, old.Methods = []uint32{1}, 999, methods
	if _, why := checkHello(old); why != "" {
		t.Errorf("version 1 has no such fields to look at: %s", why)
	}
	if d := declared(old, commonVersion(old)); d.Slots != 1 || d.Methods != nil {
		t.Errorf("version 1 declares %+v", d)
	}
}

// The heartbeat's rule against a model that sees the whole history.
func TestHeartbeatRule(t *testing.T) {
	h := Heartbeat{Interval: 2 * time.Second, Timeout: 10 * time.Second, Missed: 3}
	rapid.Check(t, func(t *rapid.T) {
		p, now, heard := pulse{}, time.Unix(1_700_000_000, 0), uint64(0)
		var u usage
		type round struct {
			gap   time.Duration
			valid bool
			u     usage
		}
		var silent []round // since something was heard, or since the worker was found busy
		p.round(now, heard, u, h)
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			gap := rapid.SampledFrom([]time.Duration{h.Interval, h.Interval, h.Interval, 2*h.Interval - 1, 3 * h.Interval}).Draw(t, "gap")
			now = now.Add(gap)
			measured := rapid.IntRange(0, 9).Draw(t, "usage came") > 0
			if measured {
				u = usage{u.cpu + time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 400}).Draw(t, "cpu"))*time.Millisecond, now.Add(-time.Millisecond)}
			}
			if rapid.IntRange(0, 15).Draw(t, "spoke") == 0 {
				heard++
				if got := p.round(now, heard, u, h); got != alive {
					t.Fatalf("heard something: %d", got)
				}
				silent = nil
				continue
			}
			got := p.round(now, heard, u, h)
			valid := gap <= 2*h.Interval && now.Sub(u.at) <= 2*h.Interval && !u.at.IsZero()
			silent = append(silent, round{gap, valid, u})
			var quietFor time.Duration
			counted := 0
			for _, r := range silent {
				if r.valid {
					quietFor += r.gap
					counted++
				}
			}
			switch got {
			case void:
				if valid && measured && len(silent) > 1 {
					t.Fatal("a good round was void")
				}
			case stuck, busy:
				if !valid || counted < h.Missed || quietFor < h.Timeout {
					t.Fatalf("judged %d after %s and %d rounds that count", got, quietFor, counted)
				}
				if got == busy {
					silent = nil
				}
			case alive:
				t.Fatal("alive without a sign")
			case quiet:
				if !valid {
					t.Fatal("a round counted that must not")
				}
			}
		}
	})
}

// The plain cases, one after the other.
func TestHeartbeatStories(t *testing.T) {
	h := Heartbeat{Interval: 2 * time.Second, Timeout: 10 * time.Second, Missed: 3}
	run := func(cpu func(i int) time.Duration, gap func(i int) time.Duration, fresh bool) (all []judgement) {
		p, now := pulse{}, time.Unix(0, 0).Add(time.Hour)
		u := usage{}
		for i := range 12 {
			now = now.Add(gap(i))
			if fresh {
				u = usage{cpu(i), now.Add(-time.Second)}
			}
			all = append(all, p.round(now, 1, u, h))
		}
		return all
	}
	has := func(all []judgement, j judgement) bool { return strings.ContainsRune(runes(all), rune('a'+j)) }
	even := func(int) time.Duration { return h.Interval }
	none := func(int) time.Duration { return time.Second }
	for name, c := range map[string]struct {
		all  []judgement
		want judgement
		not  []judgement
	}{
		"no CPU time":               {run(none, even, true), stuck, []judgement{busy}},
		"half of a core":            {run(func(i int) time.Duration { return time.Duration(i) * time.Second }, even, true), busy, []judgement{stuck}},
		"a thread that polls":       {run(func(i int) time.Duration { return time.Duration(i) * 8 * time.Millisecond }, even, true), stuck, []judgement{busy}},
		"nobody measures":           {run(none, even, false), void, []judgement{busy, stuck}},
		"the router itself is late": {run(none, func(int) time.Duration { return 3 * h.Interval }, true), void, []judgement{busy, stuck}},
	} {
		if !has(c.all, c.want) {
			t.Errorf("%s: %v, want %d", name, c.all, c.want)
		}
		for _, not := range c.not {
			if has(c.all, not) {
				t.Errorf("%s: %v has %d", name, c.all, not)
			}
		}
	}
}

// On a machine that has no time for it, a worker in C code may get no turn between two measurements: what it used before them counts.
func TestAStarvedWorkerIsNotStuck(t *testing.T) {
	h := Heartbeat{Interval: 500 * time.Millisecond, Timeout: 2 * time.Second, Missed: 3}
	p, now, u := pulse{}, time.Unix(1_700_000_000, 0), usage{}
	round := func(gap, cpu, since time.Duration) judgement {
		now = now.Add(gap)
		u = usage{u.cpu + cpu, now.Add(-since)}
		return p.round(now, 1, u, h)
	}
	round(h.Interval, 0, 0)
	var got []judgement
	for range 3 {
		got = append(got, round(h.Interval, 50*time.Millisecond, 0))
	}
	got = append(got, round(3*h.Interval, 100*time.Millisecond, 0)) // the router itself was late
	got = append(got, round(h.Interval, 0, 100*time.Millisecond), round(h.Interval/10, 0, 0))
	if all := runes(got); strings.ContainsRune(all, rune('a'+stuck)) || !strings.ContainsRune(all, rune('a'+busy)) {
		t.Errorf("%v", got)
	}
	for range 20 { // and one that is stuck from now on is found
		if j := round(h.Interval, 0, 0); j == stuck {
			return
		}
	}
	t.Error("a stuck worker is never found")
}

func runes(all []judgement) string {
	var b strings.Builder
	for _, j := range all {
		b.WriteRune(rune('a' + j))
	}
	return b.String()
}

// Credit: whatever a worker sends within its credit, and whenever the answers are taken, memory stays bounded and the call never stalls.
func TestCreditIsBoundedAndNeverStalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &Call{worker: &Worker{}}
		c.Init(nil, make(chan struct{}, 1))
		c.limit = 3 << 20
		c.step(onAccepted)
		sent, taken, message := 0, 0, 0
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "take") {
				if p, ok := c.Poll(); ok && p.HasMessage {
					taken += p.Message.Size
				}
			} else if n := min(c.allowed, c.limit-message, rapid.SampledFrom([]int{1, 1 << 10, 100 << 10, MaxPayload}).Draw(t, "bytes")); n > 0 {
				f := Frame{Kind: KindMessage, Flags: FlagMessage, Payload: make([]byte, n)}
				message += n
				if message == c.limit || rapid.IntRange(0, 3).Draw(t, "end") == 0 {
					f.Flags |= FlagEndMessage
					message = 0
				}
				if _, tooLarge, err := c.add(&f, nil, heap{}); err != nil || tooLarge {
					t.Fatalf("within credit and limit: %v, %v", tooLarge, err)
				}
				sent += n
			}
			queued := 0
			for _, a := range c.queue {
				queued += a.Size
			}
			if queued+c.partial.Size != sent-taken {
				t.Fatalf("%d bytes held, %d sent and %d taken", queued+c.partial.Size, sent, taken)
			}
			if queued+c.partial.Size > c.limit+InitialWindow {
				t.Fatalf("%d bytes held for a reader that takes none", queued+c.partial.Size)
			}
			if len(c.queue) == 0 && c.allowed <= 0 {
				t.Fatalf("nothing waits to be taken, and the worker has no credit: %d given back later", c.give)
			}
		}
	})
}

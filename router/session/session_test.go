package session

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_700_000_000, 0)

func TestTokensHaveOneText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		token := Token{
			Pod: rapid.StringN(1, 40, 40).Draw(t, "pod"), Name: rapid.StringMatching(`[A-Za-z0-9._:@/-]{1,128}`).Draw(t, "name"),
			Worker: Worker{Slot: rapid.Uint16().Draw(t, "slot"), Nonce: rapid.Uint64().Draw(t, "nonce")},
			Epoch:  rapid.Uint64Range(1, 1<<63).Draw(t, "epoch"),
		}
		text := token.String()
		if len(text) > MaxTokenBytes {
			t.Fatalf("%d bytes", len(text))
		}
		back, err := ParseToken(text)
		if err != nil || back != token {
			t.Fatalf("%v, %+v", err, back)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	good := Token{Pod: "p", Name: "s", Epoch: 1}.String()
	for _, text := range []string{good, "", "AQ", good + "A", good + "=", good + "\n", strings.ToUpper(good), strings.Repeat("A", 257)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err == nil && token.String() != text {
			t.Fatalf("%q is also %q", text, token.String())
		}
	})
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "user-42": true, "a.b_c:d@e/f-G9": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, "a b": false, "a,b": false, "ä": false, "a\n": false,
	} {
		if ValidName(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
	}
}

// Every state × every class of call has a verdict.
func TestTheTableIsComplete(t *testing.T) {
	for st := range states {
		for a := range asks {
			if v := verdicts[st][a]; v < Join || v > Recovering {
				t.Errorf("state %d, ask %d: verdict %d", st, a, v)
			}
		}
	}
}

// fixture holds one worker that lives, and lives in each state.
func fixture() (*Table, *Owner) {
	t := NewTable("pod", start)
	return t, t.AddOwner(Worker{Slot: 1, Nonce: 11})
}

func begin(t *Table, o *Owner, name string) *Life {
	l := t.Start(name, false)
	t.Queue(l)
	t.Run(l)
	t.Bind(l, o, start)
	l.SetHeld()
	t.Done(l, false, start)
	return l
}

func TestVerdictsOfTheContract(t *testing.T) {
	table, o := fixture()
	bound := begin(table, o, "bound")
	closed := begin(table, o, "closed")
	closedToken := table.Token(closed)
	table.End(closed)
	gone := table.AddOwner(Worker{Slot: 2, Nonce: 22})
	lost := begin(table, gone, "lost")
	lostToken := table.Token(lost)
	table.Lose(lost, CauseWorkerGone, time.Hour, start)
	table.RemoveOwner(gone)
	drained := begin(table, o, "drained")
	drainedToken := table.Token(drained)
	table.Lose(drained, CauseDrained, time.Hour, start)
	table.Start("waiting", false)
	current, stale := table.Token(bound), table.Token(bound)
	stale.Epoch--
	foreign := current
	foreign.Pod = "other"
	for _, c := range []struct {
		says string
		q    Question
		want Verdict
	}{
		{"name of nothing, Explicit", Question{Name: "x"}, Unknown},
		{"name of nothing, Implicit", Question{Name: "x", Implicit: true}, Start},
		{"create", Question{Name: "x", Create: true}, Start},
		{"join by name", Question{Name: "bound"}, Join},
		{"create joins", Question{Name: "bound", Create: true}, Join},
		{"its token", Question{Name: "bound", Token: &current}, Join},
		{"an older token of a living worker", Question{Name: "bound", Token: &stale}, Expired},
		{"an older token does not create", Question{Name: "bound", Token: &stale, Create: true}, Expired},
		{"the token of a closed life", Question{Name: "closed", Token: &closedToken}, Expired},
		{"another pod's token", Question{Name: "bound", Token: &foreign}, Recovering},
		{"a session that waits for a worker", Question{Name: "waiting"}, Join},
		{"lost, by name", Question{Name: "lost"}, Lost},
		{"lost, by name again: an error does not acknowledge", Question{Name: "lost"}, Lost},
		{"lost, by name, Implicit", Question{Name: "lost", Implicit: true}, Lost},
		{"lost, by name, Implicit, Hint", Question{Name: "lost", Implicit: true, Movable: true}, StartAgain},
		{"lost, create", Question{Name: "lost", Create: true}, StartAgain},
		{"lost, its token: acknowledges", Question{Name: "lost", Token: &lostToken}, Lost},
		{"lost by a drain while its worker lives, its token", Question{Name: "drained", Token: &drainedToken}, Lost},
		{"lost by a drain while its worker lives, its token shown by another caller", Question{Name: "drained", Token: &drainedToken}, Lost},
		{"lost by a drain and acknowledged, by name", Question{Name: "drained"}, Unknown},
		{"lost and acknowledged, by name", Question{Name: "lost"}, Unknown},
		{"lost and acknowledged, its token", Question{Name: "lost", Token: &lostToken}, Lost},
	} {
		if got, _, _ := table.Resolve(c.q, start); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.says, got, c.want)
		}
	}
	table.Lose(begin(table, o, "drained"), CauseDrained, time.Hour, start)
	if got, _, loss := table.Resolve(Question{Name: "drained", Token: &drainedToken}, start); got != Lost || loss.Epoch != drainedToken.Epoch || loss.Cause != CauseDrained {
		t.Errorf("the token of a lost life, when a later life of that name was lost too: %d, %+v", got, loss)
	}
	if got, _, _ := table.Resolve(Question{Name: "drained"}, start); got != Lost {
		t.Errorf("an older life's token acknowledged a later loss: %d", got)
	}
	table.SetSole(true)
	if got, _, loss := table.Resolve(Question{Name: "bound", Token: &foreign}, start); got != Lost || loss.Cause != CausePodReplaced {
		t.Errorf("another pod's token in the only pod: %d, %+v", got, loss)
	}
}

func TestEpochsOnlyGrow(t *testing.T) {
	table, o := fixture()
	highest := uint64(0)
	now := start
	rapid.Check(t, func(t *rapid.T) {
		now = now.Add(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "step"))) // the wall clock is stepped
		if rapid.Bool().Draw(t, "adopt") {
			highest = max(highest, uint64(now.UnixMicro()))
			table.Raise(highest)
		}
		l := table.Start("s", false)
		table.Bind(l, o, now)
		if l.Epoch() <= highest {
			t.Fatalf("epoch %d after %d", l.Epoch(), highest)
		}
		highest = l.Epoch()
		table.End(l)
	})
}

func TestIdleSessionsExpireOldestFirst(t *testing.T) {
	table, o := fixture()
	first, second, busy := begin(table, o, "first"), begin(table, o, "second"), begin(table, o, "busy")
	table.Queue(busy)
	later := start.Add(30 * time.Second)
	table.Queue(second)
	table.Done(second, true, later)
	var ended []string
	table.Expired(o, time.Minute, start.Add(time.Minute), func(l *Life) { ended = append(ended, l.Name()); table.End(l) })
	if fmt.Sprint(ended) != "[first]" || !first.Ended() || second.Ended() || busy.Ended() {
		t.Fatalf("expired %v", ended)
	}
	if o.Sessions() != 2 || table.Sessions() != 2 {
		t.Fatalf("%d of the worker, %d in all", o.Sessions(), table.Sessions())
	}
}

func TestLossesAreForgottenAfterTheirTime(t *testing.T) {
	table, o := fixture()
	table.Lose(begin(table, o, "a"), CauseDrained, time.Minute, start)
	table.ForgetLosses(start.Add(59 * time.Second))
	if table.Losses() != 1 {
		t.Fatal("forgotten too early")
	}
	table.ForgetLosses(start.Add(time.Minute))
	if got, _, _ := table.Resolve(Question{Name: "a"}, start); got != Unknown || table.Losses() != 0 {
		t.Fatalf("still known: %d", got)
	}
}

func TestAnAdoptedLifeOfAHigherEpochWins(t *testing.T) {
	table, o := fixture()
	other := table.AddOwner(Worker{Slot: 2, Nonce: 22})
	if l, _, _ := table.Adopt("s", o, 5, start); l == nil {
		t.Fatal("not adopted")
	}
	l, loser, epoch := table.Adopt("s", other, 9, start)
	if l == nil || loser != o || epoch != 5 {
		t.Fatalf("%v, %v, %d", l, loser, epoch)
	}
	if again, loser, epoch := table.Adopt("s", o, 5, start); again != nil || loser != o || epoch != 5 {
		t.Fatalf("the lower epoch: %v, %v, %d", again, loser, epoch)
	}
	if same, loser, _ := table.Adopt("s", other, 9, start); same != nil || loser != nil {
		t.Fatal("the same life twice")
	}
}

func TestMemoryOfASession(t *testing.T) {
	const n = 100_000
	table, o := fixture()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range n {
		begin(table, o, fmt.Sprintf("user-%08d", i))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(table)
	if each := (after.HeapAlloc - before.HeapAlloc) / n; each > 125 {
		t.Errorf("%d bytes a session; a million shall fit into 120 MiB", each)
	} else {
		t.Logf("%d bytes a session", each)
	}
}

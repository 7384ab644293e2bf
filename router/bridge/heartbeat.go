package bridge

import "time"

// Heartbeat says how often a worker is asked for a sign of life, and when silence is judged.
type Heartbeat struct {
	Interval time.Duration
	// Timeout and Missed: how long, and for how many Pings, a worker is silent before it is judged.
	Timeout time.Duration
	Missed  int
}

// DefaultHeartbeat is that of the API.
var DefaultHeartbeat = Heartbeat{Interval: 2 * time.Second, Timeout: 10 * time.Second, Missed: 3}

// busyShare is the part of the silent time that a worker must have used as CPU time to count as busy, in percent. It is not 0: a thread that waits
// for the interpreter's lock wakes up every 5 ms, which costs some tenths of a percent.
const busyShare = 2

// usage is one measurement of a worker.
type usage struct {
	cpu time.Duration // since its start
	at  time.Time     // when the router got it
}

// judgement of one round.
type judgement uint8

const (
	alive judgement = iota // something was heard since the last round
	quiet                  // silent, not long enough to be judged
	void                   // the round counts for nothing
	busy                   // silent, and it used CPU time meanwhile
	stuck                  // silent, and it did not
)

// pulse is what is known of the silence of one worker. It has no clock and no connection.
type pulse struct {
	heard  uint64    // frames, at the last round that heard something
	since  time.Time // begin of the silence, moved on by void rounds
	last   time.Time // the last round
	missed int       // rounds of silence that count
	base   usage     // the measurement with which the newest is compared: the first within the silence, void rounds included; zero for none
}

// round judges at a heartbeat: heard counts the frames that ever came, u is the newest measurement (zero for none).
func (p *pulse) round(now time.Time, heard uint64, u usage, h Heartbeat) judgement {
	gap := now.Sub(p.last)
	first := p.last.IsZero()
	p.last = now
	if first || heard != p.heard {
		p.heard = heard
		p.begin(now, usage{})
		return alive
	}
	fresh := u.at.After(p.since) && now.Sub(u.at) <= 2*h.Interval
	if gap > 2*h.Interval || !fresh {
		p.since = p.since.Add(gap)
		return void
	}
	p.missed++
	if p.base.at.IsZero() {
		p.base = u
	}
	// Two measurements that lie close together say nothing where the machine is busy: the worker may not have had its turn between them.
	measured := u.at.Sub(p.base.at)
	if now.Sub(p.since) < h.Timeout || p.missed < h.Missed || measured < h.Timeout/2 {
		return quiet
	}
	if (u.cpu-p.base.cpu)*100 >= measured*busyShare {
		p.begin(now, u)
		return busy
	}
	return stuck
}

// begin starts to measure silence anew.
func (p *pulse) begin(now time.Time, base usage) {
	p.since, p.missed, p.base = now, 0, base
}

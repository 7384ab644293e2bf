package crash

import "time"

const (
	// MaxKeys bounds the requests that a quarantine remembers; the oldest is forgotten for a new one.
	MaxKeys = 1024
	// MaxKeyBytes bounds a key; longer ones are not remembered.
	MaxKeyBytes = 512
	deadly      = 2
)

// Quarantine refuses requests that were held by two workers when they died, if no worker finished one like it in between. Make it with NewQuarantine.
type Quarantine struct {
	lasts  time.Duration
	known  map[string]*suspect
	oldest *suspect
	newest *suspect
}

type suspect struct {
	key        string
	deaths     int
	until      time.Time
	prev, next *suspect
}

// NewQuarantine makes an empty one in which a request stays for the time after its latest death; 0 switches it off.
func NewQuarantine(lasts time.Duration) *Quarantine {
	return &Quarantine{lasts: lasts, known: map[string]*suspect{}}
}

// SetDuration follows a new time for later deaths; 0 forgets everything.
func (q *Quarantine) SetDuration(lasts time.Duration) {
	q.lasts = lasts
	for lasts <= 0 && q.oldest != nil {
		q.forget(q.oldest)
	}
}

// Len counts the requests that are remembered, blocked or not.
func (q *Quarantine) Len() int { return len(q.known) }

// Died says that a worker died while it held the request. It reports whether the request is blocked by that.
func (q *Quarantine) Died(key string, now time.Time) bool {
	if q.lasts <= 0 || key == "" || len(key) > MaxKeyBytes {
		return false
	}
	q.Expire(now)
	s := q.known[key]
	if s == nil {
		if len(q.known) >= MaxKeys {
			q.forget(q.oldest)
		}
		s = &suspect{key: key}
		q.known[key] = s
	} else {
		q.unlink(s)
	}
	s.deaths++
	s.until = now.Add(q.lasts)
	s.prev = q.newest
	if q.newest == nil {
		q.oldest = s
	} else {
		q.newest.next = s
	}
	q.newest = s
	return s.deaths >= deadly
}

// Survived says that a worker finished the request: what died before died of something else, however often such a request is sent.
func (q *Quarantine) Survived(key string) {
	if s := q.known[key]; s != nil {
		q.forget(s)
	}
}

// Blocked says whether the request is refused now, and until when.
func (q *Quarantine) Blocked(key string, now time.Time) (until time.Time, blocked bool) {
	s := q.known[key]
	if s == nil || s.deaths < deadly || !now.Before(s.until) {
		return time.Time{}, false
	}
	return s.until, true
}

// Expire forgets the requests whose time is over.
func (q *Quarantine) Expire(now time.Time) {
	for q.oldest != nil && !now.Before(q.oldest.until) {
		q.forget(q.oldest)
	}
}

func (q *Quarantine) forget(s *suspect) {
	q.unlink(s)
	delete(q.known, s.key)
}

func (q *Quarantine) unlink(s *suspect) {
	if s.prev == nil {
		q.oldest = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		q.newest = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
}

package upstream

import (
	"crypto/sha256"
	"time"

	"github.com/snakepit-k8s/snakepit/router/front"
)

// quarantined refuses a request that killed workers.
func (c *call) quarantined() error {
	p := c.pool
	if p.suspects.Load() == 0 {
		return nil
	}
	key := c.requestKey()
	p.mu.Lock()
	defer p.mu.Unlock()
	until, blocked := p.quarantine.Blocked(key, p.now())
	if !blocked {
		return nil
	}
	return &front.Failure{
		Reason: front.ReasonRequestQuarantined, Message: "this request was held by two workers when they died; it is refused until " + until.UTC().Format(time.RFC3339),
		Info: map[string]string{"until": until.UTC().Format(time.RFC3339)},
	}
}

// requestKey is how the quarantine knows a request: by the caller's own id, else by what it asks for. Empty for a stream of requests without an id.
func (c *call) requestKey() string {
	if c.ask.CallerID {
		return "id " + c.ask.RequestID
	}
	if c.ask.ClientStream || c.ask.Target == "" {
		return ""
	}
	sum := sha256.New()
	for _, p := range c.pieces {
		_, _ = sum.Write(p) // never fails, by its contract
	}
	return c.ask.Target + " " + string(sum.Sum(nil))
}

// keyAtLast makes the key while the request is still there, when it may be needed: the call runs on, or its worker's connection broke.
func (c *call) keyAtLast(running bool) string {
	c.pool.mu.Lock()
	needed := running || c.doubtful
	c.pool.mu.Unlock()
	if !needed {
		return ""
	}
	return c.requestKey()
}

// tell the quarantine what died holding the call; under Pool.mu.
func (c *call) tell(key string, now time.Time) {
	if key != "" {
		c.key = key
	}
	for ; c.key != "" && c.crashes > 0; c.crashes-- {
		c.pool.quarantine.Died(c.key, now)
	}
	c.pool.suspects.Store(int64(c.pool.quarantine.Len()))
}

package faults

import (
	"io"
	"sync"
	"time"
)

// lag is how late the events of a watch come, and for how long they do.
const lag = 1500 * time.Millisecond

// lagging is the body of a watch whose events may come late.
type lagging struct {
	io.Closer
	chunks chan chunk
	closed chan struct{}
	once   sync.Once
	rest   []byte
	ended  error
}

type chunk struct {
	data []byte
	err  error
	due  time.Time
}

// newLagging delays each part of body by what delay says when it arrives.
func newLagging(body io.ReadCloser, delay func() time.Duration) *lagging {
	l := &lagging{Closer: body, chunks: make(chan chunk, 64), closed: make(chan struct{})}
	go func() {
		for {
			data := make([]byte, 16<<10)
			n, err := body.Read(data)
			select {
			case l.chunks <- chunk{data[:n], err, time.Now().Add(delay())}:
			case <-l.closed:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return l
}

// Read waits until the next part is due.
func (l *lagging) Read(into []byte) (int, error) {
	if len(l.rest) == 0 && l.ended == nil {
		select {
		case c := <-l.chunks:
			l.rest, l.ended = c.data, c.err
			if err := l.wait(time.Until(c.due)); err != nil {
				return 0, err
			}
		case <-l.closed:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(into, l.rest)
	l.rest = l.rest[n:]
	if n == 0 {
		return 0, l.ended
	}
	return n, nil
}

func (l *lagging) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.closed:
		return io.ErrClosedPipe
	}
}

// Close ends the reader too.
func (l *lagging) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Closer.Close()
}

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// PreStopSocket is the name of the unix socket of the preStop hook, inside the router's state directory: a volume of the router container alone,
// so that neither the network nor the code of workers reaches it.
const PreStopSocket = "prestop.sock"

// preStopAnswer is all that is ever said on the socket; preStopTimeout bounds one exchange; acceptPause is the wait after a failed accept.
const (
	preStopAnswer  = "draining\n"
	preStopTimeout = 5 * time.Second
	acceptPause    = time.Second
)

// ListenPreStop makes the socket at path. What an earlier router left there is removed.
func ListenPreStop(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// ServePreStop calls drain once, in a goroutine of its own, when somebody first connects, and answers everybody at once: the hook only starts the
// drain, the grace period bounds it. It returns nil when ctx ends, and closes the listener.
func ServePreStop(ctx context.Context, listener net.Listener, drain func(), log logr.Logger) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var once sync.Once
	for {
		connection, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("preStop socket: %w", err)
			}
			// No file descriptor is left, most likely; a router that serves callers must not end because of its hook.
			log.Error(err, "preStop socket; tried again", "after", acceptPause.String())
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(acceptPause):
			}
			continue
		}
		once.Do(func() {
			log.Info("drain asked for by preStop")
			go drain()
		})
		// A caller that is gone or does not read is not waited for; it needs nothing but the drain.
		_ = connection.SetDeadline(time.Now().Add(preStopTimeout))
		_, _ = io.WriteString(connection, preStopAnswer)
		_ = connection.Close()
	}
}

// AskPreStop asks the router that serves the socket at path to drain; nil once it said that it does.
func AskPreStop(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, preStopTimeout)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("no router answers here: %w", err)
	}
	defer func() { _ = connection.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := connection.SetDeadline(deadline); err != nil {
			return err
		}
	}
	answer, err := io.ReadAll(io.LimitReader(connection, int64(len(preStopAnswer))))
	if err != nil {
		return err
	}
	if string(answer) != preStopAnswer {
		return fmt.Errorf("the router answered %q instead of %q", answer, strings.TrimSpace(preStopAnswer))
	}
	return nil
}

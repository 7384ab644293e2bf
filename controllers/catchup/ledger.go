// Package catchup tells a reconciler whether its cache already holds what it wrote itself.
//
// It is memory only, and only saves needless writes: what makes a repeated write harmless after a crash are deterministic names and
// preconditions, not this ledger.
package catchup

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// patience bounds the wait for one write: an object that somebody else deleted at once may never be seen.
const patience = 10 * time.Second

// Ledger holds, per owner, the writes that its cache has not shown yet. It is safe for concurrent use.
type Ledger struct {
	clock   clock.PassiveClock
	mu      sync.Mutex
	pending map[types.UID]map[string]write
}

type write struct {
	prototype reflect.Type
	key       client.ObjectKey
	uid       types.UID
	version   string
	deleted   bool
	until     time.Time
}

// NewLedger returns an empty ledger.
func NewLedger(c clock.PassiveClock) *Ledger {
	return &Ledger{clock: c, pending: map[types.UID]map[string]write{}}
}

// Wrote notes that obj was created or changed by owner's reconciler; it carries the UID and resourceVersion that the API server answered.
func (l *Ledger) Wrote(owner types.UID, obj client.Object, version string) {
	l.note(owner, obj, write{version: version})
}

// Deleted notes that the API server accepted the deletion of obj.
func (l *Ledger) Deleted(owner types.UID, obj client.Object) {
	l.note(owner, obj, write{deleted: true})
}

func (l *Ledger) note(owner types.UID, obj client.Object, w write) {
	w.prototype, w.key, w.uid = reflect.TypeOf(obj).Elem(), client.ObjectKeyFromObject(obj), obj.GetUID()
	w.until = l.clock.Now().Add(patience)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending[owner] == nil {
		l.pending[owner] = map[string]write{}
	}
	l.pending[owner][fmt.Sprintf("%s %s", w.prototype, w.key)] = w
}

// Behind says whether cache lacks one of owner's writes. The watch event that brings it starts the next reconcile.
func (l *Ledger) Behind(ctx context.Context, owner types.UID, cache client.Reader) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, w := range l.pending[owner] {
		seen, err := w.seen(ctx, cache)
		if err != nil {
			return false, err
		}
		if !seen && l.clock.Now().Before(w.until) {
			return true, nil
		}
		delete(l.pending[owner], name)
	}
	delete(l.pending, owner)
	return false, nil
}

func (w write) seen(ctx context.Context, cache client.Reader) (bool, error) {
	obj := reflect.New(w.prototype).Interface().(client.Object)
	if err := cache.Get(ctx, w.key, obj); apierrors.IsNotFound(err) {
		return w.deleted, nil
	} else if err != nil {
		return false, err
	}
	if w.deleted {
		return obj.GetUID() != w.uid || obj.GetDeletionTimestamp() != nil, nil
	}
	order, err := resourceversion.CompareResourceVersion(obj.GetResourceVersion(), w.version)
	return order >= 0, err
}

// Package writer carries out single writes on the API server with the guards that all controllers share: creation is Create with a
// deterministic name, change is server-side apply with the object's UID, deletion has a UID precondition, and each is noted in the ledger.
//
// It decides nothing: what is written, and when, comes from a plan.
package writer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	corev1 "k8s.io/api/core/v1"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/catchup"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
)

// Writer writes on behalf of one controller. Its methods are safe for concurrent use.
type Writer struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server itself.
	Live client.Reader
	// Ledger notes each write, so that the next look waits for it.
	Ledger *catchup.Ledger
}

// ErrTaken says that the name belongs to an object of another owner, or of none.
var ErrTaken = errors.New("name is taken")

// Create makes obj. An object of the same name that is the same owner's is taken for the answer to an earlier attempt; any other is ErrTaken.
// One that goes before it was looked at is an error that Ended knows: try again.
func (w *Writer) Create(ctx context.Context, owner types.UID, obj client.Object) error {
	err := w.Client.Create(ctx, obj, client.FieldOwner(v1alpha1.FieldManagerOperator))
	if apierrors.IsAlreadyExists(err) {
		return w.recognise(ctx, owner, obj)
	}
	if err == nil {
		w.Ledger.Wrote(owner, obj, obj.GetResourceVersion())
	}
	return err
}

// recognise looks whose the object is that has the name. One that went in the meantime is no success: nothing was made, and no watch tells of the
// end of an object without our labels.
func (w *Writer) recognise(ctx context.Context, owner types.UID, obj client.Object) error {
	want := obj.DeepCopyObject().(client.Object)
	if err := w.Live.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
		return err
	}
	if !OwnedBy(obj, owner) {
		return fmt.Errorf("%T %s: %w", obj, obj.GetName(), ErrTaken)
	}
	for key, value := range want.GetLabels() {
		if obj.GetLabels()[key] != value {
			// Somebody took the labels by which the cache knows it.
			labels := map[string]any{}
			for k, v := range want.GetLabels() {
				labels[k] = v
			}
			return w.Apply(ctx, owner, obj, map[string]any{"metadata": map[string]any{"labels": labels}}, v1alpha1.FieldManagerOperator)
		}
	}
	w.Ledger.Wrote(owner, obj, obj.GetResourceVersion())
	return nil
}

// Apply changes what manager owns of the object with this UID to exactly fields. An object that is gone is not made again.
func (w *Writer) Apply(ctx context.Context, owner types.UID, have client.Object, fields map[string]any, manager string) error {
	u, err := w.configuration(have, fields)
	if err != nil {
		return err
	}
	if err := w.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.ForceOwnership, client.FieldOwner(manager)); err != nil {
		return err
	}
	w.Ledger.Wrote(owner, have, u.GetResourceVersion())
	return nil
}

// Merge writes a JSON merge patch to this very version of have: a list is replaced as a whole, and null takes a field away, whoever set it.
// It is for what others added beside our fields and Apply would leave.
func (w *Writer) Merge(ctx context.Context, owner types.UID, have client.Object, fields map[string]any) error {
	fields["metadata"] = map[string]any{"resourceVersion": have.GetResourceVersion()}
	patch, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	obj := have.DeepCopyObject().(client.Object)
	if err := w.Client.Patch(ctx, obj, client.RawPatch(types.MergePatchType, patch), client.FieldOwner(v1alpha1.FieldManagerOperator)); err != nil {
		return err
	}
	w.Ledger.Wrote(owner, obj, obj.GetResourceVersion())
	return nil
}

// ApplyStatus is Apply on the status subresource.
func (w *Writer) ApplyStatus(ctx context.Context, owner types.UID, have client.Object, status any, manager string) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(status)
	if err != nil {
		return err
	}
	u, err := w.configuration(have, map[string]any{"status": fields})
	if err != nil {
		return err
	}
	if err := w.Client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.ForceOwnership, client.FieldOwner(manager)); err != nil {
		return err
	}
	w.Ledger.Wrote(owner, have, u.GetResourceVersion())
	return nil
}

// configuration is an apply configuration for exactly this object: name, namespace and UID.
func (w *Writer) configuration(have client.Object, fields map[string]any) (*unstructured.Unstructured, error) {
	gvk, err := w.Client.GroupVersionKindFor(have)
	if err != nil {
		return nil, err
	}
	u := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(fields)}
	u.SetGroupVersionKind(gvk)
	u.SetNamespace(have.GetNamespace())
	u.SetName(have.GetName())
	u.SetUID(have.GetUID())
	if seeded.ApplyWithoutUID {
		u.SetUID("")
	}
	return u, nil
}

// Fields is a typed object as apply fields: without status and without what the API server fills in.
func Fields(obj client.Object) (map[string]any, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	if m, ok := fields["metadata"].(map[string]any); ok {
		delete(m, "creationTimestamp")
	}
	return fields, nil
}

// Delete removes exactly this object, never a successor of the same name. One that is gone already is no error.
func (w *Writer) Delete(ctx context.Context, owner types.UID, obj client.Object, grace *int64) error {
	options := []client.DeleteOption{client.PropagationPolicy(metav1.DeletePropagationBackground)}
	if !seeded.DeleteByName {
		options = append(options, client.Preconditions{UID: ptr.To(obj.GetUID())})
	}
	if grace != nil {
		options = append(options, client.GracePeriodSeconds(*grace))
	}
	err := w.Client.Delete(ctx, obj, options...)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		w.Ledger.Deleted(owner, obj)
	}
	return err
}

// SetFinalizer adds or removes the finalizer of this very version of obj.
func (w *Writer) SetFinalizer(ctx context.Context, obj client.Object, present bool) error {
	before := obj.DeepCopyObject().(client.Object)
	if present {
		controllerutil.AddFinalizer(obj, v1alpha1.Finalizer)
	} else {
		controllerutil.RemoveFinalizer(obj, v1alpha1.Finalizer)
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := w.Client.Patch(ctx, obj, patch, client.FieldOwner(v1alpha1.FieldManagerOperator)); err != nil {
		return err
	}
	if present {
		w.Ledger.Wrote(obj.GetUID(), obj, obj.GetResourceVersion())
	}
	return nil
}

// Held says whether the API server itself still holds this very object by our finalizer. The cache may not have seen yet that the finalizer
// was taken, and no ledger tells: what is released is soon gone, and would be remembered for ever.
func (w *Writer) Held(ctx context.Context, obj client.Object) (bool, error) {
	live := obj.DeepCopyObject().(client.Object)
	if err := w.Live.Get(ctx, client.ObjectKeyFromObject(obj), live); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return live.GetUID() == obj.GetUID() && controllerutil.ContainsFinalizer(live, v1alpha1.Finalizer), nil
}

// Ended says that an error is a normal end: the namespace is going away, the object is gone, or somebody else was faster. The next event
// starts the next look.
func Ended(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}

// Refused says that the API server understood a write and does not allow it: quota, policy, missing rights, or an object that is not valid.
// An admission webhook may answer with any code, and one that cannot be reached counts too: somebody must repair it.
func Refused(err error) bool {
	return !Ended(err) && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || byAdmission(err))
}

func byAdmission(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	said := status.Status().Message
	return strings.Contains(said, "denied the request") || strings.Contains(said, "denied request") || strings.Contains(said, "failed calling webhook")
}

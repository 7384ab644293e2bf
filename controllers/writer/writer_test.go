package writer

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/snakepit-k8s/snakepit/controllers/catchup"
)

func podOf(owner types.UID) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
	if owner != "" {
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "o", UID: owner, Controller: ptr.To(true)}}
	}
	return pod
}

// What a name that is taken means depends on who has it when it is looked at.
func TestCreateOfATakenName(t *testing.T) {
	for _, c := range []struct {
		name string
		have *corev1.Pod // nil: it went between the attempt and the look
		want func(error) bool
	}{
		{"the owner's own", podOf("owner"), func(err error) bool { return err == nil }},
		{"another owner's", podOf("another"), func(err error) bool { return errors.Is(err, ErrTaken) }},
		{"nobody's", podOf(""), func(err error) bool { return errors.Is(err, ErrTaken) }},
		{"gone in the meantime", nil, func(err error) bool { return err != nil && Ended(err) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			builder := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
				Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
					return apierrors.NewAlreadyExists(schema.GroupResource{Resource: "pods"}, "p")
				},
			})
			if c.have != nil {
				builder.WithObjects(c.have)
			}
			api := builder.Build()
			w := &Writer{Client: api, Live: api, Ledger: catchup.NewLedger(clocktesting.NewFakePassiveClock(time.Unix(0, 0)))}
			if err := w.Create(t.Context(), "owner", podOf("owner")); !c.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

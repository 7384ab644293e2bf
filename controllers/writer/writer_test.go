package writer

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// goesBetween is an API server whose object has the name at the POST and is gone at the GET.
type goesBetween struct {
	client.Client
}

var pods = schema.GroupResource{Resource: "pods"}

func (goesBetween) Create(_ context.Context, obj client.Object, _ ...client.CreateOption) error {
	return apierrors.NewAlreadyExists(pods, obj.GetName())
}

func (goesBetween) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(pods, key.Name)
}

// A name that was freed between the POST and the look at who has it: nothing was made, so it must be tried again.
func TestCreateWhenTheOtherGoes(t *testing.T) {
	w := &Writer{Client: goesBetween{}, Live: goesBetween{}}
	err := w.Create(t.Context(), "owner", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "it"}})
	if !Ended(err) {
		t.Errorf("Create: %v, want an error that Ended knows", err)
	}
}

// Package v1alpha1 is the contract between users, operator and router: what a pool may ask for and what its status will say.
//
// It holds types, constants and the words for them only. It imports nothing of this project, so that both halves, which never import each other, meet here.
//
// +kubebuilder:object:generate=true
// +groupName=snakepit.dev
package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// GroupVersion is the API group and version of every type in this package.
var GroupVersion = schema.GroupVersion{Group: "snakepit.dev", Version: "v1alpha1"}

// SchemeBuilder collects the types; AddToScheme registers them.
var (
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)
	AddToScheme   = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&WorkerPool{}, &WorkerPoolList{},
		&WorkerGroup{}, &WorkerGroupList{})
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}

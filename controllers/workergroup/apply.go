package workergroup

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
	"github.com/snakepit-k8s/snakepit/controllers/metrics"
	"github.com/snakepit-k8s/snakepit/controllers/seeded"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/plan"
	"github.com/snakepit-k8s/snakepit/controllers/workergroup/resources"
	"github.com/snakepit-k8s/snakepit/controllers/writer"
)

// refusal is why a pod could not be made; nothing changes until somebody acts.
type refusal struct {
	reason  string
	message string
}

// errPodsLeft: the API server still knows pods of a group that the cache shows without any.
var errPodsLeft = errors.New("pods of the group are left")

// apply carries out the plan. A refused pod is an outcome for the status and not an error.
func (r *Reconciler) apply(ctx context.Context, obs *observation, p plan.Plan) (*refusal, error) {
	for _, action := range p.Actions {
		var err error
		switch a := action.(type) {
		case plan.AddFinalizer:
			err = r.Writer.SetFinalizer(ctx, obs.group, true)
		case plan.CreatePod:
			var refused *refusal
			if refused, err = r.createPod(ctx, obs.group, a); refused != nil {
				return refused, nil
			}
		case plan.SetPodUID:
			fields := map[string]any{"spec": map[string]any{"podUID": string(a.Pod.UID), "nextPod": int64(a.Pod.Ordinal) + 1}}
			err = r.Writer.Apply(ctx, obs.group.UID, obs.group, fields, v1alpha1.FieldManagerGroup)
		case plan.SetServing:
			err = r.setServing(ctx, obs, a)
		case plan.MarkPod:
			err = r.markPod(ctx, obs, a)
		case plan.DeletePod:
			err = r.deletePod(ctx, obs, a)
		case plan.Release:
			err = r.release(ctx, obs, a)
		default:
			err = fmt.Errorf("bug: unknown action %T", action)
		}
		if writer.Refused(err) {
			return &refusal{v1alpha1.ReasonChildRejected, fmt.Sprintf("the API server refused a change of group %s or its pod: %v. Change the policy, the webhook or the operator's rights; it is tried again", obs.group.Name, err)}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (r *Reconciler) createPod(ctx context.Context, group *v1alpha1.WorkerGroup, a plan.CreatePod) (*refusal, error) {
	pod, err := resources.MakePod(group, a.Ordinal, r.RouterImage)
	if err != nil {
		return &refusal{v1alpha1.ReasonInvalidSpec, fmt.Sprintf("no pod of group %s can be made from spec.template: %v", group.Name, err)}, nil
	}
	if seeded.GenerateName {
		pod.GenerateName, pod.Name = pod.Name+"-", ""
	}
	err = r.Writer.Create(ctx, group.UID, pod)
	switch {
	case err == nil:
		r.event(group, pod, corev1.EventTypeNormal, v1alpha1.EventPodCreated, "CreatePod", "created pod %s: %s", pod.Name, a.Reason)
		return nil, nil
	case errors.Is(err, writer.ErrTaken):
		return &refusal{v1alpha1.ReasonNameTaken, fmt.Sprintf("pod %s exists and is not this group's; delete or rename it (kubectl get pod %s -o yaml)", pod.Name, pod.Name)}, nil
	case writer.Refused(err):
		r.Metrics.Refused(metrics.KindPod)
		return &refusal{v1alpha1.ReasonPodRejected, fmt.Sprintf("the API server refused pod %s: %v. Change spec.template, or the quota, policy or webhook that it names; it is tried again", pod.Name, err)}, nil
	default:
		return nil, err
	}
}

func (r *Reconciler) setServing(ctx context.Context, obs *observation, a plan.SetServing) error {
	fields := map[string]any{}
	if a.Serving {
		fields["metadata"] = map[string]any{"labels": map[string]any{v1alpha1.LabelServing: "true"}}
	}
	return r.Writer.Apply(ctx, obs.group.UID, podReference(obs.group, a.Pod), fields, v1alpha1.FieldManagerGroup)
}

func (r *Reconciler) markPod(ctx context.Context, obs *observation, a plan.MarkPod) error {
	fields, err := writer.Fields(resources.Marks(obs.group))
	if err != nil {
		return err
	}
	return r.Writer.Apply(ctx, obs.group.UID, podReference(obs.group, a.Pod), map[string]any{"metadata": fields["metadata"]}, v1alpha1.FieldManagerOperator)
}

func (r *Reconciler) deletePod(ctx context.Context, obs *observation, a plan.DeletePod) error {
	pod := podReference(obs.group, a.Pod)
	var grace *int64
	if a.Force {
		grace = ptr.To[int64](0)
	}
	if err := r.Writer.Delete(ctx, obs.group.UID, pod, grace); err != nil {
		return err
	}
	if a.Force {
		r.Metrics.Forced()
		r.event(poolReference(obs.group), obs.group, corev1.EventTypeWarning, v1alpha1.EventCleanupForced, "DeletePod",
			"pod %s was removed without proof of its end: processes of it may still run on node %s", pod.Name, a.Pod.Node)
		return nil
	}
	r.event(obs.group, pod, corev1.EventTypeNormal, v1alpha1.EventPodDeleted, "DeletePod", "deleted pod %s: %s", pod.Name, a.Reason)
	return nil
}

// release lets the group go once the API server itself, not the cache, knows no pod of it in any phase. A group that was let go before is
// not written again.
func (r *Reconciler) release(ctx context.Context, obs *observation, a plan.Release) error {
	if held, err := r.Writer.Held(ctx, obs.group); err != nil || !held {
		return err
	}
	if !a.Forced {
		live := r.Writer.Live
		if seeded.CachedRelease {
			live = r.Writer.Client
		}
		var left corev1.PodList
		if err := live.List(ctx, &left, client.InNamespace(obs.group.Namespace), client.MatchingLabels{v1alpha1.LabelGroupUID: string(obs.group.UID)}); err != nil {
			return err
		}
		if len(left.Items) > 0 {
			return fmt.Errorf("%w: %s", errPodsLeft, left.Items[0].Name)
		}
	}
	r.words.forget(obs.group.UID)
	if err := r.Writer.SetFinalizer(ctx, obs.group, false); err != nil {
		return err
	}
	r.Metrics.Released(metrics.KindGroup, obs.group.UID, r.Clock.Since(obs.group.DeletionTimestamp.Time))
	return nil
}

func podReference(group *v1alpha1.WorkerGroup, pod plan.Pod) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: group.Namespace, Name: pod.Name, UID: pod.UID},
	}
}

// poolReference is what an Event about the group's pool needs: users watch the pool.
func poolReference(group *v1alpha1.WorkerGroup) runtime.Object {
	owner := metav1.GetControllerOf(group)
	if owner == nil {
		return group
	}
	return &corev1.ObjectReference{
		APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: group.Namespace, Name: owner.Name, UID: owner.UID,
	}
}

func (r *Reconciler) event(about, related runtime.Object, kind, reason, action, note string, args ...any) {
	r.Events.Eventf(about, related, kind, reason, action, note, args...)
}

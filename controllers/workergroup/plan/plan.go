package plan

import "sort"

// Decide returns what to do about the group's pods.
func Decide(in Input) Plan {
	var p Plan
	sort.Slice(in.Pods, func(i, j int) bool { return in.Pods[i].Ordinal < in.Pods[j].Ordinal })
	mark(in, &p)
	switch {
	case in.Group.Deleting:
		end(in, &p)
	case !in.Group.Finalizer:
		p.do(AddFinalizer{Reason: "before the first pod"})
	default:
		keep(in, &p)
	}
	return p
}

// mark gives stripped pods their marks back, before all else: without them no watch tells of the pod, and its end could not be proven.
func mark(in Input, p *Plan) {
	for _, pod := range in.Pods {
		if pod.Stripped && in.Group.Finalizer {
			p.do(MarkPod{Pod: pod, Reason: "its labels or its owner were changed"})
		}
	}
}

// end deletes every pod and releases the group when none is left.
func end(in Input, p *Plan) {
	if !in.Group.Finalizer {
		return
	}
	forced := in.Group.Forced || (!in.Group.ForceAt.IsZero() && !in.Now.Before(in.Group.ForceAt))
	left := 0
	for _, pod := range in.Pods {
		if in.Group.Lost && pod.Serving && !pod.Ended && !forced {
			p.do(SetServing{Pod: pod, Reason: "its successor serves"})
		}
		switch {
		case forced && pod.Killed:
			continue
		case forced:
			p.do(DeletePod{Pod: pod, Force: true, Reason: "cleanup is forced"})
		case !pod.Terminating:
			p.do(DeletePod{Pod: pod, Reason: "the group is deleted"})
		}
		left++
	}
	if left == 0 {
		p.do(Release{Forced: forced && len(in.Pods) > 0, Reason: "no pod is left"})
		return
	}
	if !forced && !in.Group.ForceAt.IsZero() {
		p.lookAt(in.Group.ForceAt)
	}
}

// keep has exactly one pod serve, unless the group is drained.
func keep(in Input, p *Plan) {
	waiting := replaceEnded(in, p)
	chosen := choose(in)
	for _, pod := range in.Pods {
		if startable(pod) && (chosen == nil || pod.UID != chosen.UID) {
			p.do(DeletePod{Pod: pod, Reason: "another pod of the group serves"})
		}
	}
	if chosen == nil {
		if !waiting && !in.Group.Draining {
			succeed(in, p)
		}
		return
	}
	if chosen.Terminating {
		p.lookAt(chosen.GraceOver)
	}
	if chosen.UID != in.Group.PodUID || chosen.Ordinal+1 != in.Group.NextPod {
		p.do(SetPodUID{Pod: *chosen, Reason: "it is the group's pod now"})
		return
	}
	for _, pod := range in.Pods {
		if serving := pod.UID == in.Group.PodUID && !in.Group.Lost; serving != pod.Serving && !pod.Ended {
			p.do(SetServing{Pod: pod, Serving: serving, Reason: "the Service follows spec.podUID"})
		}
	}
}

// succeed makes the next pod. Its number is that of the group's spec and not the lowest that is seen to be free: whether a lost pod is still
// seen depends on the moment, and two attempts must not make two pods. A pod that was made and lost before it was named is named first.
func succeed(in Input, p *Plan) {
	if n := len(in.Pods); n > 0 && in.Pods[n-1].Ordinal >= in.Group.NextPod {
		p.do(SetPodUID{Pod: in.Pods[n-1], Reason: "its number is taken: the next pod gets another"})
		return
	}
	p.do(CreatePod{Ordinal: in.Group.NextPod, Reason: "the group has no pod that can serve"})
}

// replaceEnded deletes pods that ended. It says whether one still waits for its time.
func replaceEnded(in Input, p *Plan) (waiting bool) {
	for _, pod := range in.Pods {
		if !pod.Ended || pod.Terminating {
			continue
		}
		retry := pod.EndedAt
		if !pod.Served {
			retry = retry.Add(FailedPodRetry)
		}
		if in.Now.Before(retry) {
			p.lookAt(retry)
			waiting = true
			continue
		}
		p.do(DeletePod{Pod: pod, Reason: "it ended"})
	}
	return waiting
}

// choose returns the pod that serves: the one that is named already for as long as it can, else the oldest that can start.
// A terminating pod that is still Ready drains: its sessions are served to its end, and no other pod runs beside it.
func choose(in Input) *Pod {
	var chosen *Pod
	for i := range in.Pods {
		pod := &in.Pods[i]
		draining := pod.Terminating && pod.Ready && !pod.Ended && in.Now.Before(pod.GraceOver)
		if pod.UID == in.Group.PodUID && (startable(*pod) || draining) {
			return pod
		}
		if chosen == nil && startable(*pod) {
			chosen = pod
		}
	}
	return chosen
}

func startable(pod Pod) bool { return !pod.Terminating && !pod.Ended }

package resources

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"strings"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// hashVersion changes when the way of hashing changes; then every pool gets a new revision, which the release notes must say.
const hashVersion = "v1"

// revisionLength keeps the longest pod name (40 + revision + ordinals) far below the 63 characters of a label.
const revisionLength = 8

// Values that mean the same as leaving the field out. A default that a later version adds must be added here too, or the upgrade restarts pods.
var defaults = map[string]any{
	"protocol": string(v1alpha1.ProtocolSnakepit),
	"profile":  string(v1alpha1.ProfileProcess),
	"drain":    map[string]any{"timeout": "30s"},
}

// Revision is the hash of the user's pod-relevant input, with unset and default values left out: what the operator adds (its router image,
// labels, new defaulted fields) does not change it.
func Revision(settings *v1alpha1.PodSettings) (string, error) {
	raw, err := json.Marshal(settings)
	if err != nil {
		return "", err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return "", err
	}
	if drain, ok := fields["drain"].(map[string]any); ok {
		// The operator follows it while the group lives.
		delete(drain, "onDeadline")
	}
	for name, value := range defaults {
		if same(fields[name], value) {
			delete(fields, name)
		}
	}
	stripped, _ := strip(fields, "").(map[string]any)
	canonical, err := json.Marshal(stripped)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(hashVersion+"\n"), canonical...))
	text := base32.NewEncoding("abcdefghijkmnpqrstuvwxyz23456789").WithPadding(base32.NoPadding).EncodeToString(sum[:])
	return text[:revisionLength], nil
}

// RevisionOf is the revision of what a group would give its next pod: another than the one it was made from when somebody changed that.
func RevisionOf(group *v1alpha1.WorkerGroup) string {
	revision, err := Revision(&group.Spec.PodSettings)
	if err != nil {
		return group.Spec.Revision
	}
	return revision
}

func same(a, b any) bool {
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && string(x) == string(y)
}

// strip returns the value without nulls, empty strings, empty lists and empty objects; nil when nothing remains.
func strip(value any, key string) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, child := range v {
			if kept := strip(child, k); kept != nil {
				out[k] = kept
			}
		}
		if len(out) == 0 && !meaningWhenEmpty(key) {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i, child := range v {
			// An element keeps its place even when it is empty: order and number mean something in a list.
			if out[i] = strip(child, ""); out[i] == nil {
				out[i] = map[string]any{}
				if _, isText := child.(string); isText {
					out[i] = ""
				}
			}
		}
		return out
	case string:
		// The schema defaults the protocol of a container port, because it is part of the list's key.
		if v == "" || (key == "protocol" && v == "TCP") {
			return nil
		}
		return v
	case nil:
		return nil
	default:
		return v
	}
}

// meaningWhenEmpty names the fields whose empty object says something: a volume is an emptyDir because the field is there, a selector
// that is empty selects everything.
func meaningWhenEmpty(key string) bool {
	return key == "emptyDir" || strings.HasSuffix(key, "elector")
}

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

const (
	operatorUser  = "system:serviceaccount:snakepit-system:snakepit-operator"
	accountPrefix = "system:serviceaccount:"
	// longestEvent bounds a line of the log, in bytes; events of level Metadata have about 1 KiB.
	longestEvent = 1 << 20
)

// A request is what the log says about one request.
type request struct {
	user  string
	right right
	// forbidden says that RBAC refused it; other refusals (admission) are answers to requests that RBAC allowed.
	forbidden bool
	// message is the error that was answered.
	message string
}

// event is the part of audit.k8s.io/v1 Event that is read here.
type event struct {
	Verb string `json:"verb"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef *struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Namespace   string `json:"namespace"`
		APIGroup    string `json:"apiGroup"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"responseStatus"`
	Annotations map[string]string `json:"annotations"`
}

// everybodys is what any account may ask about itself; the operator does after a 403, to tell a quota from a missing right.
const everybodys = "selfsubjectaccessreviews"

// readLog gives the requests for resources by operator and routers. Requests for discovery, for /version and about one's own rights need no right
// of ours.
func readLog(path string) ([]request, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // it is only read
	var found []request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, longestEvent)
	for n := 1; lines.Scan(); n++ {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		// A watch that goes on has only the event of its start.
		ours := isOperator(e.User.Username) || isRouter(e.User.Username)
		if e.ObjectRef == nil || !ours || e.ObjectRef.Resource == everybodys {
			continue
		}
		resource := e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			resource += "/" + e.ObjectRef.Subresource
		}
		found = append(found, request{
			user:      e.User.Username,
			right:     right{group: e.ObjectRef.APIGroup, resource: resource, verb: e.Verb, namespace: e.ObjectRef.Namespace},
			forbidden: e.Annotations["authorization.k8s.io/decision"] == "forbid",
			message:   e.ResponseStatus.Message,
		})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

func isOperator(user string) bool { return user == operatorUser }

func isRouter(user string) bool {
	return strings.HasPrefix(user, accountPrefix) && strings.HasSuffix(user, v1alpha1.RouterAccountSuffix)
}

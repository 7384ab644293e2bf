package resources

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/snakepit-k8s/snakepit/api/v1alpha1"
)

// maxSlot is the highest number of a slot in a container.
const maxSlot = 255

var slotList = regexp.MustCompile(`^[0-9]{1,3}(\s*,\s*[0-9]{1,3})*$`)

// RecycleRequest reads the pool's annotation: nil without one. The error says how to write it.
func RecycleRequest(pool *v1alpha1.WorkerPool) (*v1alpha1.RecycleRequest, error) {
	text := strings.TrimSpace(pool.Annotations[v1alpha1.AnnotationRecycle])
	if text == "" {
		return nil, nil
	}
	if n := utf8.RuneCountInString(text); n > v1alpha1.MaxRecycleText {
		return nil, badRecycle(fmt.Sprintf("has %d characters", n))
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, badRecycle("holds characters that cannot be shown")
	}
	request := &v1alpha1.RecycleRequest{ID: text}
	colon := strings.LastIndex(text, ": ")
	if colon < 0 && !strings.HasSuffix(text, ":") {
		return request, nil
	}
	list := ""
	if colon >= 0 {
		list = strings.TrimSpace(text[colon+1:])
	}
	if !slotList.MatchString(list) {
		return nil, badRecycle(fmt.Sprintf("%q has no list of slots behind its colon", text))
	}
	for part := range strings.SplitSeq(list, ",") {
		slot, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || slot > maxSlot {
			return nil, badRecycle(fmt.Sprintf("%q names slot %s", text, strings.TrimSpace(part)))
		}
		request.Slots = append(request.Slots, int32(slot))
	}
	slices.Sort(request.Slots)
	request.Slots = slices.Compact(request.Slots)
	return request, nil
}

func badRecycle(what string) error {
	return fmt.Errorf("annotation %s %s; write any text of at most %d characters to recycle all workers, or TEXT: 0,3 for those in slots 0 and 3 (0 to %d)",
		v1alpha1.AnnotationRecycle, what, v1alpha1.MaxRecycleText, maxSlot)
}

package front

import "sort"

// nearest returns up to three names within a third of the asked name's length, in edits, nearest first.
func nearest(name string, names []string) []string {
	type match struct {
		name  string
		edits int
	}
	if len(name) > 64 {
		return nil
	}
	var found []match
	for _, candidate := range names {
		if edits := distance(name, candidate); edits <= max(1, (len(candidate)+1)/3) {
			found = append(found, match{candidate, edits})
		}
	}
	sort.Slice(found, func(i, j int) bool {
		if found[i].edits != found[j].edits {
			return found[i].edits < found[j].edits
		}
		return found[i].name < found[j].name
	})
	var result []string
	for _, m := range found[:min(len(found), 3)] {
		result = append(result, m.name)
	}
	return result
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			before, row[j] = row[j], min(row[j]+1, row[j-1]+1, before+cost)
		}
	}
	return row[len(b)]
}

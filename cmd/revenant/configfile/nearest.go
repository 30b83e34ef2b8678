package configfile

import "strings"

// meant is the remedy for a key that does not exist.
func (p *parser) meant(name string) string {
	best, distance := "", 0
	for _, k := range p.keys {
		d := edits(strings.ToLower(strings.ReplaceAll(name, "_", "-")), k.Name)
		if best == "" || d < distance {
			best, distance = k.Name, d
		}
	}
	if best == "" || distance > max(2, len(best)/3) {
		return "all settings: revenant run --help"
	}
	return "did you mean " + best + "?"
}

// edits is how many letters must be inserted, removed or replaced to make one
// word of another (Levenshtein).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

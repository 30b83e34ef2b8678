//go:build !race

package supervisortest

const raceEnabled = false

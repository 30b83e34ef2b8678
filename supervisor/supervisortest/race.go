//go:build race

package supervisortest

const raceEnabled = true

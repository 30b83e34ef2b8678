package main

import (
	"fmt"
	"os"
	"strings"
)

// tokenIn reads the token from a file, "" when there is none to read.
func tokenIn(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w (name a file that this user can read)", cause(err))
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("the file holds no token (write one line into it)")
	}
	return token, nil
}

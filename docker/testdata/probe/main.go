// Command probe does in an image without a shell what a test needs there.
//
//	probe signal PID NUMBER
//	probe get URL
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if args[0] == "signal" {
		pid, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		signal, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return syscall.Kill(pid, syscall.Signal(signal))
	}
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Get(args[1])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Print(resp.StatusCode, " ")
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

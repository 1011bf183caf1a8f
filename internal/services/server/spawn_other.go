//go:build !linux

package server

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// spawn starts cmd in a process group of its own. Here a bound one outlives a
// killed owner: only Linux has a signal for that.
func spawn(cmd *exec.Cmd, bound bool, _ syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = bound
	cmd.SysProcAttr.Setsid = !bound
	return cmd.Start()
}

// birth tells a process from a later one with the same pid.
func birth(pid int) string {
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	state, started, ok := strings.Cut(strings.TrimSpace(string(out)), " ")
	if err != nil || !ok || strings.HasPrefix(state, "Z") {
		return ""
	}
	return strings.TrimSpace(started)
}

// family is the process and its children.
func family(pid int) []int {
	pids := []int{pid}
	out, _ := exec.Command("pgrep", "-P", strconv.Itoa(pid)).Output()
	for _, child := range strings.Fields(string(out)) {
		if n, err := strconv.Atoi(child); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

package server

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// spawner runs functions on one thread that never ends: the kernel sends a
// child its death signal when the thread that made it ends, and Go may end
// other threads.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// spawn starts cmd in a process group of its own, so that an interrupt from the
// terminal does not reach it. A bound one gets the signal death when this
// process ends; the kernel does that, so it holds for SIGKILL too.
func spawn(cmd *exec.Cmd, bound bool, death syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if !bound {
		cmd.SysProcAttr.Setsid = true
		return cmd.Start()
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = death
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	return <-started
}

// birth tells a process from a later one with the same pid: the time of its
// start in clock ticks since boot. It is "" for one that has ended, also if
// nobody has reaped it yet.
func birth(pid int) string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the name in brackets may hold anything
	// A zombie with threads is one whose first thread has ended before the others, which may hold its ports.
	if len(fields) < 20 || (fields[0] == "Z" || fields[0] == "X") && fields[17] <= "1" {
		return ""
	}
	return fields[19]
}

// family is the process and all that descend from it, parents first.
func family(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		id := strconv.Itoa(pids[i])
		children, _ := os.ReadFile("/proc/" + id + "/task/" + id + "/children")
		for _, child := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(child); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

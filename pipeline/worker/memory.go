package worker

import (
	"os"
	"strconv"
	"strings"
)

// MachineMemory is the memory that this machine or container has, in bytes.
func MachineMemory() int64 {
	total := int64(4 << 30)
	if data, err := os.ReadFile("/proc/meminfo"); err == nil {
		fields := strings.Fields(string(data))
		for i, f := range fields {
			if f == "MemTotal:" && i+1 < len(fields) {
				if kib, err := strconv.ParseInt(fields[i+1], 10, 64); err == nil {
					total = kib << 10
				}
			}
		}
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if data, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && n > 0 {
				total = min(total, n)
			}
		}
	}
	return total
}

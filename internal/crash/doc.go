// Package crash kills kq for real: worker processes and `kq run` by SIGKILL at
// random instants and at every named point, and by SIGSTOP for longer than a
// lease. After each kill the same command is given again, until the run is
// done; then no row may be lost, none duplicated, nothing half-visible and no
// orphan left after `kq gc`.
//
// It also gives a run far less memory than data.
//
// go test runs a few hundred kills; KQ_KILLS=10000 go test -timeout 24h
// -run TestKills ./internal/crash counts on.
package crash

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) validateCommand() *cobra.Command {
	var set []string
	c := &cobra.Command{
		Use:   "validate FILE|FOLDER...",
		Short: "Check job files, with their SQL and sources, and report every problem",
		Long:  "Problems come one a line, as file:line:column: path: what is wrong; what to do.\nThe exit code is 2 when there is one.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []string
			for _, arg := range args {
				if info, err := os.Stat(arg); err == nil && info.IsDir() {
					for _, pattern := range []string{"*.yaml", "*.yml"} {
						found, _ := filepath.Glob(filepath.Join(arg, pattern))
						files = append(files, found...)
					}
					continue
				}
				files = append(files, arg)
			}
			sort.Strings(files)
			if len(files) == 0 {
				return &failure{code: exitJob, err: fmt.Errorf("there is no .yaml file in %s", strings.Join(args, ", "))}
			}
			code := exitOK
			for _, f := range files {
				_, _, engine, err := a.compile(cmd.Context(), f, set)
				if err != nil {
					code = max(code, a.exitCode(err))
					continue
				}
				engine.Close()
				fmt.Fprintf(a.stdout, "%s: ok\n", f)
			}
			if code != exitOK {
				return &failure{code: code, err: fmt.Errorf("invalid"), said: true}
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&set, "set", nil, "override a key of the jobs")
	return c
}

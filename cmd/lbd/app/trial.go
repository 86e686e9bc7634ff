package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cirque-lb/lb"
	"github.com/cirque-lb/lb/cmd/lbd/internal/node"
	"github.com/cirque-lb/lb/cmd/lbd/internal/worker"
)

// trialTimeout is how long a program may take to say what it is.
const trialTimeout = 10 * time.Second

// credentials is what a program says of itself in a trial. The command and
// these fields keep their form for ever.
type credentials struct {
	Version  string `json:"version"`
	Handover int    `json:"handover"`
	Control  int    `json:"control"`
}

// newTrial is the command by which a supervisor tries its successor.
func newTrial() *cobra.Command {
	c := &cobra.Command{Use: "trial", Hidden: true, Args: usage(cobra.NoArgs)}
	file := configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		text, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		if _, err := parse(*file, text); err != nil {
			return err
		}
		return json.NewEncoder(c.OutOrStdout()).Encode(credentials{thisVersion(), handoverVersion, worker.Protocol})
	}
	return c
}

// try reports why a program cannot be our successor.
func (d *daemon) try(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeout)
	defer cancel()
	c := exec.CommandContext(ctx, path, "trial", "-c", d.file)
	// A program of its own that hangs must not keep us waiting by its children.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it does not start: nothing said within %v", trialTimeout)
	case err != nil && said.Len() > 0:
		return fmt.Errorf("it does not start here (%w): %s", err, firstLines(said.String()))
	case err != nil:
		return fmt.Errorf("it does not start here: %w", err)
	}
	var is credentials
	if err := json.Unmarshal(out.Bytes(), &is); err != nil {
		return errors.New("it is no lbd that can be upgraded to")
	}
	if is.Handover != handoverVersion || is.Control != worker.Protocol {
		return fmt.Errorf("lbd %s speaks %w %d of the handover and %d of the control protocol, we speak %d and %d",
			is.Version, errVersions, is.Handover, is.Control, handoverVersion, worker.Protocol)
	}
	return nil
}

// errVersions: it is an lbd that ours could not follow each other with.
var errVersions = errors.New("version")

// firstLines shortens what a program said to what fits an error.
func firstLines(text string) string {
	lines := strings.SplitN(strings.TrimSpace(text), "\n", 9)
	text = strings.Join(lines[:min(len(lines), 8)], "\n")
	return text[:min(len(text), 1000)]
}

// upgrade tries the program, replaces the workers, and has serve replace the
// supervisor.
func (d *daemon) upgrade(ctx context.Context, binary string, a node.Asked) error {
	path := binary
	if path == "" {
		path = d.binary
	}
	if err := d.try(ctx, path); err != nil {
		text := fmt.Sprintf("%s is not run: %v", path, err)
		d.node.Note(lb.Event{Time: time.Now(), Kind: "node.upgrade-failed", Subject: d.config.Node.Name, Detail: text})
		return &node.Error{Kind: node.NotReady, Text: "the upgrade failed and everything goes on as before: " + text, Err: err}
	}
	if err := d.node.Upgrade(ctx, binary, a); err != nil {
		return err
	}
	select {
	case d.successor <- path:
	default: // one is about to be executed
	}
	return nil
}

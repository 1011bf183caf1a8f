package worker

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
)

// publishing starts a loop for each sink that is a service, beside the one that
// computes, so that a slow service holds up nothing but its own shards. The
// function that it returns waits for their ends.
func (w *worker) publishing() (wait func() error) {
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i := range w.graph.Tasks {
		t := &w.graph.Tasks[i]
		if t.Kind != pipeline.Publish {
			continue
		}
		group.Go(func() {
			p := &publisher{worker: w, task: t}
			if err := p.loop(); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	return func() error {
		group.Wait()
		return errors.Join(errs...)
	}
}

// publisher is a worker's loop over the shards of one sink.
type publisher struct {
	*worker
	task   *pipeline.Task
	sender Sender
}

// loop claims and sends shards, one at a time, until the run has ended.
func (p *publisher) loop() error {
	defer p.close()
	for idle := 0; !p.stopping(); {
		claims, err := p.co.Claim(p.ctx, p.me, p.task.Lane(), 1)
		if err != nil {
			return p.unlessStopped(err)
		}
		if len(claims) > 0 {
			idle = 0
			if err := p.execute(claims[0]); err != nil {
				return p.unlessStopped(err)
			}
			continue
		}
		pulse, err := p.co.Pulse(p.ctx, p.me)
		if err != nil {
			return p.unlessStopped(err)
		}
		if pulse.RunState.Final() {
			return nil
		}
		idle++
		select {
		case <-time.After(min(time.Duration(idle)*5*time.Millisecond, 100*time.Millisecond)):
		case <-p.ctx.Done():
		case <-p.Stopped:
		}
	}
	return nil
}

func (p *publisher) execute(c pipeline.Claim) error {
	t := p.graph.Task(c.Task)
	if t == nil {
		return p.fail(c, pipeline.Permanent(fmt.Errorf("the plan has no task %q", c.Task)), nil)
	}
	p.log.Info("shard started", "task", c.Task, "shard", c.Shard.Ordinal, "attempt", c.Attempt)
	begin := time.Now()
	done, err := p.send(t, c)
	if err != nil {
		p.close() // it may be in a bad state
		return p.fail(c, err, nil)
	}
	done.Metrics.Elapsed = time.Since(begin)
	done.Metrics.Memory = peakMemory()
	return p.complete([]pipeline.Completion{done})
}

// send sends one shard, or ends the sink's work.
func (p *publisher) send(t *pipeline.Task, c pipeline.Claim) (done pipeline.Completion, err error) {
	done.Claim = c
	pulse, err := p.co.Pulse(p.ctx, p.me)
	if err != nil {
		return done, err
	}
	p.pulse.Store(&pulse)
	if p.sender == nil {
		r := p.share(p.task)
		r.Spill = filepath.Join(r.Spill, "sink-"+t.Sink.Name)
		if p.sender, err = p.Sender(p.ctx, p.graph, p.task, p.Run, r); err != nil {
			return done, err
		}
	}
	if t.Kind == pipeline.Last {
		sent, err := p.co.Parts(p.ctx, p.Run, t.Needs[0])
		if err == nil {
			durable.Point("publish.last.before")
			done.Metrics, err = p.sender.Last(p.ctx, sent)
			durable.Point("publish.last.after")
		}
		return done, err
	}
	parts := make([]pipeline.StoredPart, len(c.Followed))
	for i, part := range c.Followed {
		parts[i] = pipeline.StoredPart{Part: part, Path: filepath.Join(p.parts, part.Name)}
	}
	durable.Point("publish.send.before")
	done.Parts, done.Metrics, err = p.sender.Send(p.ctx, c, parts, max(1, pulse.Workers))
	durable.Point("publish.send.after")
	return done, err
}

func (p *publisher) close() {
	if p.sender == nil {
		return
	}
	if err := p.sender.Close(); err != nil {
		p.log.Warn("close the sink", "sink", p.task.Sink.Name, "error", err)
	}
	p.sender = nil
}

package sqssink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/kinequet/kq/backpressure"
)

// deliver sends messages until each has arrived or is refused, or the attempt has
// failed.
func (s *sending) deliver(ctx context.Context, batch []*message) {
	var began time.Time // of failures that aren't for too many requests
	for try := 0; len(batch) > 0; try++ {
		if try > 0 {
			s.resent.Add(1)
		}
		a, err := s.request(ctx, batch)
		if err != nil {
			s.fail(err)
			return
		}
		for _, r := range a.refused {
			s.refuse(r)
		}
		if a.tooMuch { // one of them isn't taken, and which one isn't said
			half := len(batch) / 2
			s.deliver(ctx, batch[:half])
			if !s.c.fifo() || !s.stopped() { // what comes behind a refused one in its group must not overtake it
				s.deliver(ctx, batch[half:])
			}
			return
		}
		now := time.Now()
		switch {
		case len(a.left) < len(batch):
			s.progress.Store(now.UnixNano())
			began = time.Time{}
		case a.throttled:
			began = time.Time{}
		case began.IsZero():
			began = now
		}
		if batch = a.left; len(batch) == 0 || s.stopped() {
			return
		}
		stalled := now.Sub(time.Unix(0, s.progress.Load())) > s.c.deliveryTimeout
		if stalled || !began.IsZero() && now.Sub(began) > s.c.deliveryTimeout {
			s.fail(fmt.Errorf("nothing was taken for %v: %w", s.c.deliveryTimeout, a.why))
			return
		}
		if !sleep(ctx, max(a.wait, pause(try+1))) {
			s.fail(ctx.Err())
			return
		}
	}
}

// An answer is what became of a request.
type answer struct {
	left      []*message // to be sent again
	refused   []*refusal
	tooMuch   bool // it isn't taken for what some of the messages contain
	throttled bool
	wait      time.Duration
	why       error // of left
}

// request sends messages once. The error is one that ends the attempt.
func (s *sending) request(ctx context.Context, batch []*message) (answer, error) {
	entries := make([]types.SendMessageBatchRequestEntry, len(batch))
	size := int64(0)
	for i, m := range batch {
		entries[i] = m.entry
		entries[i].Id = &entryIDs[i]
		size += int64(m.bytes)
	}
	if err := s.gate.Acquire(ctx, size); err != nil {
		return answer{}, err
	}
	within, cancel := context.WithTimeout(ctx, s.c.requestTimeout)
	out, err := s.client.SendMessageBatch(within, &sqs.SendMessageBatchInput{QueueUrl: &s.c.url, Entries: entries})
	cancel()
	switch {
	case err == nil:
		a, outcome := s.sort(batch, out)
		s.gate.Release(size, outcome)
		return a, nil
	case ctx.Err() != nil:
		s.gate.Release(size, backpressure.Outcome{Result: backpressure.Abandoned})
		return answer{}, ctx.Err()
	}
	v, wait := judge(err)
	outcome := backpressure.Outcome{Result: backpressure.Failed, RetryAfter: wait}
	a := answer{left: batch, wait: wait, why: s.explain(err)}
	switch v {
	case throttled:
		a.throttled, outcome.Result = true, backpressure.Throttled
	case content:
		outcome.Result = backpressure.Rejected
		a.left, a.tooMuch = nil, len(batch) > 1
		if !a.tooMuch {
			a.refused = []*refusal{batch[0].refusal((&failure{"the queue refuses it", err}).Error())}
		}
	case never:
		outcome.Result = backpressure.Rejected
		s.gate.Release(size, outcome)
		return answer{}, a.why
	}
	s.gate.Release(size, outcome)
	return a, nil
}

var entryIDs = func() (ids [maxBatch]string) {
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	return ids
}()

// sort divides the messages of a request that was answered by what became of
// each. One of which the answer says nothing is sent again.
func (s *sending) sort(batch []*message, out *sqs.SendMessageBatchOutput) (a answer, o backpressure.Outcome) {
	arrived := make([]bool, len(batch))
	for _, e := range out.Successful {
		if i, err := strconv.Atoi(value(e.Id)); err == nil && i >= 0 && i < len(batch) && !arrived[i] {
			arrived[i] = true
			s.rows.Add(1)
			s.bytes.Add(int64(batch[i].bytes))
		}
	}
	failed := make([]*types.BatchResultErrorEntry, len(batch))
	for k := range out.Failed {
		if i, err := strconv.Atoi(value(out.Failed[k].Id)); err == nil && i >= 0 && i < len(batch) {
			failed[i] = &out.Failed[k]
		}
	}
	for i, m := range batch {
		f := failed[i]
		if arrived[i] {
			continue
		}
		if f == nil {
			a.left, a.why = append(a.left, m), errors.New("the service's answer leaves out messages")
			continue
		}
		text := fmt.Sprintf("%s: %s", short(value(f.Code)), value(f.Message))
		switch v := judgeEntry(f); v {
		case content:
			a.refused = append(a.refused, m.refusal("the queue refuses it: "+text))
		case throttled:
			a.throttled = true
			fallthrough
		default:
			a.left, a.why = append(a.left, m), fmt.Errorf("%s has not taken a message: %s", s.c.target(), text)
		}
	}
	switch {
	case a.throttled:
		o.Result = backpressure.Throttled
	case len(a.left) == len(batch):
		o.Result = backpressure.Failed
	case len(a.refused) == len(batch):
		o.Result = backpressure.Rejected
	}
	s.noteOvertaken(batch, a.left)
	return a, o
}

// noteOvertaken warns when a message that is sent again comes after later ones of
// its group. Only ordering: batched lets that happen.
func (s *sending) noteOvertaken(batch, left []*message) {
	if !s.c.fifo() {
		return
	}
	for _, l := range left {
		for _, m := range batch {
			if m.group == l.group && m.row > l.row && !slices.Contains(left, m) {
				s.warn("group %q: row %s failed alone and comes after later ones; ordering: strict prevents that", l.group, l.id)
				return
			}
		}
	}
}

package postgressink

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stream is the content of files for COPY, as the gate lets it pass: a piece
// counts as on its way from when it is handed out until the connection has taken
// it and asks for the next, or COPY has ended. What the kernel still holds then
// is bounded by the connection's buffers.
//
// Read may still be running, in a goroutine of pgx, when COPY has failed; end
// waits for it.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc
	gate   sinks.Gate

	mu    sync.Mutex
	files []pipeline.StoredPart // the first is open
	file  *os.File
	sum   hash.Hash32 // CRC-32C of the first file so far
	held  int64
	sent  int64 // bytes
	ended error
}

func newStream(ctx context.Context, gate sinks.Gate, files []pipeline.StoredPart) *stream {
	s := &stream{gate: gate, files: files}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(backpressure.Outcome{})
	if s.ended != nil {
		return 0, s.ended
	}
	n, err := s.fill(p[:min(int64(len(p)), max(1, s.gate.Limit()))])
	if err == nil {
		err = s.gate.Acquire(s.ctx, int64(n))
	}
	if err != nil {
		s.ended = err
		return 0, err
	}
	s.held = int64(n)
	s.sent += s.held
	return n, nil
}

// fill reads from the files, one after the other, and compares each with its
// checksum at its end.
func (s *stream) fill(p []byte) (int, error) {
	for {
		if s.file == nil {
			if len(s.files) == 0 {
				return 0, io.EOF
			}
			var err error
			if s.file, err = os.Open(s.files[0].Path); err != nil {
				return 0, err
			}
			s.sum = crc32.New(castagnoli)
		}
		n, err := s.file.Read(p)
		_, _ = s.sum.Write(p[:n])
		if n > 0 {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return 0, err
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
}

// next closes the first file.
func (s *stream) next() error {
	part, sum := s.files[0], fmt.Sprintf("crc32c:%08x", s.sum.Sum32())
	_ = s.file.Close()
	s.file, s.files = nil, s.files[1:]
	if sum != part.Checksum {
		return pipeline.Permanent(fmt.Errorf("part %s is damaged: its checksum is %s, not %s", part.Name, sum, part.Checksum))
	}
	return nil
}

func (s *stream) release(o backpressure.Outcome) {
	if s.held > 0 {
		s.gate.Release(s.held, o)
		s.held = 0
	}
}

// end gives back what is held and tells what came of it. It returns the bytes
// that were sent, and the error that made the stream end early, if one did.
func (s *stream) end(o backpressure.Outcome) (sent int64, err error) {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(o)
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
	if s.ended == nil {
		s.ended = errEnded
	}
	if !errors.Is(s.ended, io.EOF) && !errors.Is(s.ended, errEnded) {
		err = s.ended
	}
	return s.sent, err
}

var errEnded = errors.New("the stream has ended")

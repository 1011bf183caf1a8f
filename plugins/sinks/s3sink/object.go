package s3sink

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/kinequet/kq/pipeline"
)

// partsAtOnce is how many parts of an object are on their way at a time, if the
// gate lets them.
const partsAtOnce = 4

// farewell is how long aborting an upload may take when all else has ended.
const farewell = 15 * time.Second

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// object is a file on its way to the store.
type object struct {
	key, kind string            // kind is its Content-Type
	meta      map[string]string // what HEAD tells of it later
	file      pipeline.StoredPart
	crc       *string // of the file, as S3 writes it; nil: not to be sent
}

// Keys of an object's metadata.
const (
	metaRun      = "kq-run"
	metaPart     = "kq-part"
	metaChecksum = "kq-checksum"
)

// put uploads an object. Nobody sees it before it is complete.
func (c *client) put(ctx context.Context, o *object) error {
	f, err := os.Open(o.file.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return pipeline.Permanent(fmt.Errorf("part %s is gone from the state directory; run again with --fresh", o.file.Name))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != o.file.Bytes {
		return pipeline.Permanent(fmt.Errorf("part %s has %d bytes in the state directory, not %d; run again with --fresh", o.file.Name, info.Size(), o.file.Bytes))
	}
	size := c.partSize(o.file.Bytes)
	if o.file.Bytes > size {
		err = c.putParts(ctx, o, f, size)
	} else {
		err = c.putWhole(ctx, o, f)
	}
	var refusal *failure
	if errors.As(err, &refusal) && refusal.damaged() {
		sum := crc32.New(castagnoli)
		if _, e := io.Copy(sum, io.NewSectionReader(f, 0, o.file.Bytes)); e == nil && fmt.Sprintf("crc32c:%08x", sum.Sum32()) != o.file.Checksum {
			return pipeline.Permanent(fmt.Errorf("part %s is damaged in the state directory; run again with --fresh: %w", o.file.Name, err))
		}
	}
	return err
}

// putWhole uploads an object by one request.
func (c *client) putWhole(ctx context.Context, o *object, f io.ReaderAt) error {
	return c.do(ctx, "put "+c.where(o.key), o.file.Bytes, func(ctx context.Context) error {
		out, err := c.s3.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &c.bucket, Key: &o.key, Body: io.NewSectionReader(f, 0, o.file.Bytes), ContentLength: &o.file.Bytes, ContentType: &o.kind,
			Metadata: o.meta, ChecksumCRC32C: o.crc, StorageClass: types.StorageClass(c.storageClass),
			ServerSideEncryption: types.ServerSideEncryption(c.encryption), SSEKMSKeyId: text(c.kmsKey),
		})
		if err != nil {
			return err
		}
		return o.same(out.ChecksumCRC32C)
	})
}

// same compares the checksum that the store has computed, if it tells one.
func (o *object) same(got *string) error {
	if o.crc == nil || got == nil || *got == *o.crc || strings.Contains(*got, "-") { // that of the parts' checksums
		return nil
	}
	return fmt.Errorf("the store has computed the checksum %s of what it got, not %s", *got, *o.crc)
}

// partSize is the bytes of an object's parts: as the job says, but no more than
// may be on their way at all, and enough for so many bytes.
func (c *client) partSize(bytes int64) int64 {
	size := max(min(c.partBytes, c.gate.Limit()), smallestPart)
	return max(size, (bytes+mostParts-1)/mostParts)
}

// putParts uploads an object in parts.
func (c *client) putParts(ctx context.Context, o *object, f io.ReaderAt, size int64) error {
	id, err := c.create(ctx, o)
	if err != nil {
		return err
	}
	parts, err := c.sendParts(ctx, o, id, f, size)
	if err == nil {
		err = c.complete(ctx, o, id, parts)
	}
	if err != nil {
		c.abort(ctx, o.key, id)
	}
	return err
}

func (c *client) create(ctx context.Context, o *object) (id string, err error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &c.bucket, Key: &o.key, ContentType: &o.kind, Metadata: o.meta, StorageClass: types.StorageClass(c.storageClass),
		ServerSideEncryption: types.ServerSideEncryption(c.encryption), SSEKMSKeyId: text(c.kmsKey),
	}
	if o.crc != nil {
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc32c, types.ChecksumTypeFullObject
	}
	err = c.do(ctx, "begin "+c.where(o.key), 0, func(ctx context.Context) error {
		out, err := c.s3.CreateMultipartUpload(ctx, in)
		if err == nil {
			id = aws.ToString(out.UploadId)
		}
		return err
	})
	return id, err
}

// sendParts uploads the parts of an object, some at once.
func (c *client) sendParts(ctx context.Context, o *object, id string, f io.ReaderAt, size int64) ([]types.CompletedPart, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := make([]types.CompletedPart, (o.file.Bytes+size-1)/size)
	next := make(chan int)
	var group sync.WaitGroup
	for range min(partsAtOnce, len(parts)) {
		group.Go(func() {
			for i := range next {
				var err error
				first := int64(i) * size
				body := io.NewSectionReader(f, first, min(size, o.file.Bytes-first))
				if parts[i], err = c.sendPart(ctx, o, id, int32(i+1), body); err != nil {
					cancel(err) // the first one is told
				}
			}
		})
	}
	for i := range parts {
		select {
		case next <- i:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(next)
	group.Wait()
	return parts, context.Cause(ctx)
}

func (c *client) sendPart(ctx context.Context, o *object, id string, number int32, body *io.SectionReader) (types.CompletedPart, error) {
	done := types.CompletedPart{PartNumber: &number}
	if o.crc != nil {
		sum := crc32.New(castagnoli)
		if _, err := io.Copy(sum, body); err != nil {
			return done, err
		}
		done.ChecksumCRC32C = aws.String(base64.StdEncoding.EncodeToString(sum.Sum(nil)))
	}
	err := c.do(ctx, fmt.Sprintf("put part %d of %s", number, c.where(o.key)), body.Size(), func(ctx context.Context) error {
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		out, err := c.s3.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &c.bucket, Key: &o.key, UploadId: &id, PartNumber: &number, Body: body, ContentLength: aws.Int64(body.Size()),
			ChecksumCRC32C: done.ChecksumCRC32C,
		})
		if err == nil {
			done.ETag = out.ETag
		}
		return err
	})
	return done, err
}

// complete makes one object of the parts, all of which the store verifies again by
// the checksum of the whole.
func (c *client) complete(ctx context.Context, o *object, id string, parts []types.CompletedPart) error {
	in := &s3.CompleteMultipartUploadInput{
		Bucket: &c.bucket, Key: &o.key, UploadId: &id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}, ChecksumCRC32C: o.crc,
	}
	if o.crc != nil {
		in.ChecksumType, in.MpuObjectSize = types.ChecksumTypeFullObject, &o.file.Bytes
	}
	err := c.do(ctx, "complete "+c.where(o.key), 0, func(ctx context.Context) error {
		out, err := c.s3.CompleteMultipartUpload(ctx, in)
		if err != nil {
			return err
		}
		return o.same(out.ChecksumCRC32C)
	})
	var f *failure
	if err == nil || !errors.As(err, &f) || ctx.Err() != nil {
		return err
	}
	// The answer to an earlier try may have been lost; then the upload is gone, and
	// the object is there.
	if there, e := c.there(ctx, o); e == nil && there {
		return nil
	}
	if f.code == "NoSuchUpload" {
		return fmt.Errorf("complete %s: another attempt has aborted the upload", c.where(o.key))
	}
	if f.status == http.StatusForbidden {
		return err
	}
	// Not for good: stores have other words as well for an upload that is just being
	// aborted.
	return fmt.Errorf("complete %s: %w", c.where(o.key), f)
}

// abort ends an upload and frees what the store keeps of it.
func (c *client) abort(ctx context.Context, key, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	_ = c.abortUpload(ctx, key, id) // what is left, a later attempt finds
}

func (c *client) abortUpload(ctx context.Context, key, id string) error {
	return c.do(ctx, "abort the upload of "+c.where(key), 0, func(ctx context.Context) error {
		_, err := c.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &c.bucket, Key: &key, UploadId: &id})
		if err != nil && diagnose(err).missing() {
			return nil
		}
		return err
	})
}

// upload is one that has begun and is not complete.
type upload struct{ key, id string }

// uploads lists those of keys with a prefix.
func (c *client) uploads(ctx context.Context, prefix string) (all []upload, err error) {
	in := &s3.ListMultipartUploadsInput{Bucket: &c.bucket, Prefix: &prefix}
	for {
		var out *s3.ListMultipartUploadsOutput
		err := c.do(ctx, "list the uploads to "+c.uri(""), 0, func(ctx context.Context) (err error) {
			out, err = c.s3.ListMultipartUploads(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, u := range out.Uploads {
			if u.Key != nil && u.UploadId != nil && strings.HasPrefix(*u.Key, prefix) {
				all = append(all, upload{*u.Key, *u.UploadId})
			}
		}
		if !aws.ToBool(out.IsTruncated) || aws.ToString(out.NextKeyMarker) == "" {
			return all, nil
		}
		in.KeyMarker, in.UploadIdMarker = out.NextKeyMarker, out.NextUploadIdMarker
	}
}

// abortUploads aborts those of keys with a prefix that want says, and returns their keys.
func (c *client) abortUploads(ctx context.Context, prefix string, want func(key string) bool) (keys []string, err error) {
	all, err := c.uploads(ctx, prefix)
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if !want(u.key) {
			continue
		}
		if err := c.abortUpload(ctx, u.key, u.id); err != nil {
			return keys, err
		}
		if !slices.Contains(keys, u.key) {
			keys = append(keys, u.key)
		}
	}
	return keys, nil
}

// there reports whether the store holds the object, whole. It goes by what the
// store was told when it took and verified it, not by a checksum that it tells
// later: that is another one with some stores, and none with others.
func (c *client) there(ctx context.Context, o *object) (bool, error) {
	var out *s3.HeadObjectOutput
	err := c.do(ctx, "look at "+c.where(o.key), 0, func(ctx context.Context) (err error) {
		out, err = c.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &c.bucket, Key: &o.key})
		return err
	})
	var f *failure
	if errors.As(err, &f) && f.missing() {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return aws.ToInt64(out.ContentLength) == o.file.Bytes && out.Metadata[metaChecksum] == o.meta[metaChecksum] && out.Metadata[metaPart] == o.meta[metaPart], nil
}

func (c *client) where(key string) string { return "s3://" + c.bucket + "/" + key }

// encodeCRC turns "crc32c:" and eight hex digits into what S3 takes.
func encodeCRC(checksum string) (*string, error) {
	digits, ok := strings.CutPrefix(checksum, "crc32c:")
	sum, err := hex.DecodeString(digits)
	if !ok || err != nil || len(sum) != 4 {
		return nil, fmt.Errorf("%q is no checksum of a part", checksum)
	}
	return aws.String(base64.StdEncoding.EncodeToString(sum)), nil
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

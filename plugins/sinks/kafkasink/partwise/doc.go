// Package partwise publishes parts to a Kafka topic: immutable, ordered rows,
// in Arrow record batches, sent whole or not at all from the caller's view.
//
// The unit of retry is the part. There are no per-record channels, callbacks or
// retry buffers: rows are copied from Arrow vectors into one buffer per
// partition, cut into record batches, and sent over connections of
// github.com/IBM/sarama's protocol layer. [Producer.Publish] returns when every
// row is acknowledged by all in-sync replicas or set aside, or with an error
// whose [Class] says what to do.
//
// # Sequence numbers
//
// Each attempt has a producer id of its own. Within a partition batches carry
// consecutive sequence numbers, and at most five are in flight: so many the
// broker remembers to recognize one that is sent again. The first batch of a
// partition is sent alone, since a broker that knows nothing of a producer takes
// any first number.
//
//   - An answer that says "not here, not now" (a leader that moved, too few
//     replicas) or none at all (a cut connection): nothing more is sent on that
//     partition until all that is in flight has its answer or has lost its
//     connection. Then the batches without an acknowledgement are sent again, in
//     order, under the numbers they had. Whatever was written is one of the last
//     five of this producer, so the broker drops what it has.
//   - A batch out of sequence although every one before it is acknowledged, a
//     producer id that the broker forgot, a topic that was made anew, offsets that
//     go backwards: nobody knows what the log holds. The attempt fails, and the
//     next one has a new producer id.
//   - A batch that the broker refuses for what it contains is not written, and
//     neither is any after it. Too large without a culprit: it is cut in two under
//     the same numbers. Culprits named, or one record left: they are handed to
//     [Part.Reject], and the rest is renumbered, which is only safe while no
//     connection was lost since: otherwise the attempt fails.
//
// # Delivery
//
// At-least-once: an attempt that fails leaves what it wrote; the next repeats it.
//
// Effectively-once: one transactional id per part, which is [Part.ID].
//
//  1. InitProducerId ends whatever an earlier attempt has open and fences it.
//     From here on no earlier attempt can commit.
//  2. Only now is the token asked for: a committed offset of the group [Part.ID],
//     read with RequireStable, whose metadata holds checksum, rows and rejected rows.
//     Found and equal: done. Found and different: [ErrTokenMismatch]. Not found, and
//     the first attempt was longer ago than the broker keeps tokens: [ErrTokenExpired].
//  3. The rows, then [Part.Settle], then the token in the same transaction, then the
//     commit. A commit without an answer is [CommitUnknown]: the next attempt's
//     token says what became of it.
//
// An attempt that fails ends its transaction by InitProducerId with its own id
// and epoch, which raises the epoch: a batch of it that is still under way can't
// open the transaction again, and a newer attempt can't be fenced by an older one.
//
// # Memory
//
// Bytes of rows that are held (being filled, waiting, in flight or waiting to be
// sent again) never exceed [Options.MaxBytes], shared by all attempts of a
// Producer; one record larger than that passes alone. When nothing more may be
// held, batches in flight are waited for; only when all is held by batches that
// are still being filled are these sent as they are. Encoding needs three more
// batches' worth for each connection that is being written to; sarama encodes and
// compresses one batch of a connection at a time.
// Bytes in flight are what [Gate] is asked for: acquired before a batch is
// written, released when it is answered or its connection is lost.
package partwise

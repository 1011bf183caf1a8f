package partwise

// Marks of rows without a partition of their own.
const (
	anywhere int32 = -1 // the sink's choice
	nowhere  int32 = -2 // the column names one that the topic doesn't have
)

// partitions appends the partitions of n rows to dst: the column's, where there
// is one and it is not NULL, else the key's by Java's default partitioner, else
// anywhere.
func (v *vectors) partitions(dst []int32, n int, count int32) []int32 {
	for i := range n {
		to := anywhere
		if key := v.key.at(i); key != nil {
			to = keyPartition(key, count)
		}
		dst = append(dst, to)
	}
	if v.partition == nil {
		return dst
	}
	for i, rows := 0, dst[len(dst)-n:]; i < n; i++ {
		switch given, ok := v.partition(i); {
		case ok && given >= 0 && given < int64(count):
			rows[i] = int32(given)
		case ok:
			rows[i] = nowhere
		}
	}
	return dst
}

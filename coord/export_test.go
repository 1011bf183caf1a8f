package coord

import "context"

// SetSchemaVersion makes a database look as if another kq had made it.
func SetSchemaVersion(s *Store, v string) error {
	_, err := s.fast.exec(context.Background(), "UPDATE meta SET v = ? WHERE k = 'schema_version'", v)
	return err
}

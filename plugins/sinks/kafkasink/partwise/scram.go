package partwise

import (
	"crypto/sha256"
	"crypto/sha512"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

// scramClient is one SCRAM conversation (RFC 5802) as sarama leads it.
type scramClient struct {
	mechanism string
	talk      *scram.ClientConversation
}

var _ sarama.SCRAMClient = (*scramClient)(nil)

// Begin implements sarama.SCRAMClient.
func (c *scramClient) Begin(user, password, authzID string) error {
	hash := scram.HashGeneratorFcn(sha256.New)
	if c.mechanism == sarama.SASLTypeSCRAMSHA512 {
		hash = sha512.New
	}
	client, err := hash.NewClient(user, password, authzID)
	if err != nil {
		return err
	}
	c.talk = client.NewConversation()
	return nil
}

// Step implements sarama.SCRAMClient.
func (c *scramClient) Step(challenge string) (string, error) { return c.talk.Step(challenge) }

// Done implements sarama.SCRAMClient.
func (c *scramClient) Done() bool { return c.talk.Done() }

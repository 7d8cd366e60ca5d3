"""The scripts that trained the embedded checkpoints on two public corpora: Brown, and the mails of SpamAssassin."""

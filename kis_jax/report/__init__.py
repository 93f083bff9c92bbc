"""What pages share: their style, document and words, and the records that they read."""

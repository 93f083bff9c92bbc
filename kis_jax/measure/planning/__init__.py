"""What edits would do, before any is made."""

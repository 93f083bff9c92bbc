"""`kis lifelong`: lifetimes of edits."""

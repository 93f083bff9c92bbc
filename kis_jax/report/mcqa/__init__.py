"""The files and the page of an evaluation on puzzles."""

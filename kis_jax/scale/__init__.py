"""Runs that outlast a process: what has been measured is kept, and taken up again."""

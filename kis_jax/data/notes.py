"""What readers of strangers' files tell beside what they give."""

from __future__ import annotations


class DataNote(UserWarning):
    """Something in a file that its reader has decided, and that a user should know of.

    The commands show it as one line on standard error.
    """

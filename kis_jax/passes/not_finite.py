"""The error for numbers that went wrong, told apart from errors of what was asked."""


class NotFiniteError(ValueError):
    """A model or a search came to numbers that are not finite; what was asked of it is sound.

    A run that goes on past a broken model catches this one, and lets every other `ValueError`,
    such as for a fact that cannot be tokenized, end it.
    """

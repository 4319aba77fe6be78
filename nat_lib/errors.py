"""The one kind of error that people are meant to read."""


class Refusal(ValueError):
    """Bad input or a bad machine, told in one line that names the remedy."""

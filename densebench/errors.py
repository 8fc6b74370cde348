"""The one error that a user can cause."""


class UserError(Exception):
    """What the user gave is wrong: one line that names the value, the limit and the remedy. Exit status 2."""

"""The error that a user can put right."""


class UserError(Exception):
    """A file, a setting or the machine is not as it must be; the message says what to do about it."""

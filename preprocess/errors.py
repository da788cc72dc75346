"""The errors that are told to the user in a sentence."""


class UserError(Exception):
    """A file, a setting or the machine is not as it must be; the message says what to do about it."""


class UnreadableError(Exception):
    """An image cannot be read; the message is the reason. With on_error=skip such an image is left out."""

"""What a person did wrong, said in one sentence."""


class UserError(Exception):
    """Something outside the program is not as it must be; the message says what to do about it."""

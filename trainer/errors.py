"""What a user can put right: one sentence that says what to do."""


class UserError(Exception):
    """Wrong input or a wrong setting; shown as one sentence, without a traceback."""

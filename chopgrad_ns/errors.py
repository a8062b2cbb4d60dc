"""The one exception for what a user can put right."""


class UserError(ValueError):
    """Bad input met at the border it entered by.

    The message is one sentence: what is wrong, where, and what would be right. Command-line entry points print it
    without a traceback and exit with code 2.
    """

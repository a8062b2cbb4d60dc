"""What commands tell a user who can put it right."""


class UserError(ValueError):
    """Bad input met at the border it entered by.

    The message is one sentence: what is wrong, where, and what would be right. Command-line entry points print it
    without a traceback and exit with code 2.
    """


def check_least(**least: tuple[int, int]) -> None:
    """Raise UserError for an option, by name, whose value is below the smallest that it may have."""
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {smallest} or more.")


class Incomplete(Exception):
    """Work that was done but for some parts, which were named as they were skipped; the message says how many.

    Command-line entry points print it without a traceback and exit with code 3.
    """

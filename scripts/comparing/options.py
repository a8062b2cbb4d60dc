"""What options must be."""

from chopgrad_ns.errors import UserError


def check_least(**least: tuple[int, int]) -> None:
    """Raise UserError for an option, by name, whose value is below the smallest."""
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {smallest} or more.")

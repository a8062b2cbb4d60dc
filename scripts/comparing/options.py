"""What options must be."""

from chopgrad_ns.errors import UserError
from comparing.worlds import SPARSITIES


def check_qualities(qualities: int) -> None:
    if not 1 <= qualities <= len(SPARSITIES):
        raise UserError(f"--qualities is {qualities}; give a number from 1 to {len(SPARSITIES)}.")


def check_least(**least: tuple[int, int]) -> None:
    """Raise UserError for an option, by name, whose value is below the smallest."""
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"--{name.replace('_', '-')} is {value}; give {smallest} or more.")

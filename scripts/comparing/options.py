"""What options must be."""

from chopgrad_ns.errors import UserError
from comparing.worlds import SPARSITIES


def check_qualities(qualities: int) -> None:
    if not 1 <= qualities <= len(SPARSITIES):
        raise UserError(f"--qualities is {qualities}; give a number from 1 to {len(SPARSITIES)}.")

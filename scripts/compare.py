"""Compare methods in one harness: on the same data, from the same weights, for as many steps.

    python scripts/compare.py artifact-removal --data ../shared/data/scenes/fox     # baselines on captures
    python scripts/compare.py ablation                                             # losses and gradients
    python scripts/compare.py steps --pairs PAIRS --judges PAIRS                    # one step beside many

`python scripts/compare.py COMMAND --help` explains the options. Results are folders that `chopgrad report` makes pages of.
"""

import importlib
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

COMMANDS = ("artifact-removal", "ablation", "steps")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends in one sentence on standard error and exit code 2."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__.strip())
        return
    if name not in COMMANDS:
        print(f"compare: there is no command {name!r}; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)
    import tyro

    from chopgrad_ns.errors import UserError

    module = importlib.import_module("comparing." + name.replace("-", "_"))
    try:
        tyro.cli(module.run, prog=f"compare.py {name}", description=module.__doc__, args=rest)
    except UserError as error:
        print(f"compare {name}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

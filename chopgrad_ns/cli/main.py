"""`chopgrad SUB-COMMAND`: each stage of `ns-train chopgrad-refine` alone."""

import importlib
import os
import sys
from collections.abc import Sequence

from chopgrad_ns.errors import Incomplete, UserError

# Spinning OpenMP threads make every step several times slower on a busy machine; read once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

COMMANDS = {
    "sample": "make sample worlds: rooms, courtyards, streets and things from near, with known depth, as nerfstudio scenes",
    "reconstruct": "fit a splat to sparse views of a scene",
    "pairs": "make degraded/clean pairs from captures, drives, sample worlds and plain videos",
    "finetune": "fine-tune a video refiner on pairs with pixel losses through its causal decoder",
    "render": "draw a splat along a trajectory, frame by frame to disk",
    "refine": "refine a video, a splat along a trajectory, or a folder of pairs, in one step",
    "splat": "tell what splat files hold; merge, move, crop and convert them (PLY, compressed PLY, SPZ)",
    "evaluate": "compare frames, videos or folders of clips with the truth",
    "report": "write a page that shows what runs made: clips side by side, metrics, plots",
    "profile": "measure memory, time and gradient errors of backpropagation through a causal video decoder",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: chopgrad COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    lines += ["", "`chopgrad COMMAND --help` lists the options of a command. The whole job: ns-train chopgrad-refine --data SCENE"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one sub-command.

    Bad input ends in one sentence on standard error and exit code 2; work that had to leave parts out, in one and code 3.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"chopgrad: there is no command {name!r}; choose one of {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)
    # Imported only when asked for, so that the help of one command does not wait for the libraries of all.
    module = importlib.import_module(f"chopgrad_ns.cli.{name}")
    import tyro

    try:
        tyro.cli(module.run, prog=f"chopgrad {name}", description=module.__doc__, args=rest)
    except UserError as error:
        print(f"chopgrad {name}: {error}", file=sys.stderr)
        sys.exit(2)
    except Incomplete as error:
        print(f"chopgrad {name}: {error}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()

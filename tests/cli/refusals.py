"""What every command does with bad input."""

import pytest

from chopgrad_ns.cli.main import main


def refused(capsys, *arguments, message):
    """Exit code 2 and one sentence on standard error."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr().err.strip()
    assert caught.value.code == 2 and message in shown and shown.endswith(".") and "\n" not in shown, shown

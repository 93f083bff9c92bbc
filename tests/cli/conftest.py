import subprocess
import sys
from pathlib import Path

import pytest

from kis_jax.cli import main


@pytest.fixture
def kis(monkeypatch, capsys):
    """Runs `kis` in this process; gives exit status, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kis", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as error:
            status = error.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def kis_process():
    """Runs the installed command as a user does; gives the finished process."""
    command = Path(sys.executable).parent / "kis"

    def run(*arguments):
        return subprocess.run(
            [command, *map(str, arguments)], capture_output=True, text=True, timeout=300
        )

    return run

"""The lowest versions that pyproject.toml allows, a line each, as pip reads them.

    pip install -r <(python scripts/lowest.py) .

Only of what it names itself: the rest is whatever these allow. With names of extras, theirs too.
"""

import re
import sys
import tomllib
from pathlib import Path


def lowest(extras: list[str]) -> list[str]:
    """Each requirement at its lower bound; one with no bound as it stands."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    wanted = project["dependencies"] + sum(
        (project["optional-dependencies"][extra] for extra in extras), []
    )
    return [re.sub(r">=([\w.]+).*", r"==\1", line) for line in wanted]


if __name__ == "__main__":
    print("\n".join(lowest(sys.argv[1:])))

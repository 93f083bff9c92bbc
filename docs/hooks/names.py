"""Where names in a sentence or a table may break: after `_`, `/`, `.` and `:`, not in an option.

A hook of MkDocs, named in mkdocs.yml. What a reader copies is unchanged: the marks have no text.
"""

from __future__ import annotations

import re
from typing import Any

_NAME = re.compile(r"(?<!<pre>)(?<!</span>)<code>([^<]+)</code>")
_JOINT = re.compile(r"(?<=[_/.:])(?=\w)")
_OPTION = re.compile(r"--\w[\w-]*")


def on_page_content(content: str, **_: Any) -> str:
    """The page with a mark at each place where a name may break, and options in one piece."""

    def marked(found: re.Match[str]) -> str:
        joints = _JOINT.sub("<wbr>", found[1])  # before there are tags, which have a `/`
        whole = _OPTION.sub(lambda option: f'<span class="whole">{option[0]}</span>', joints)
        return f"<code>{whole}</code>"

    return _NAME.sub(marked, content)

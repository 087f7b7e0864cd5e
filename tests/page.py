"""The files of docs/extend.md, by name, and its text."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w./]+\.(?:py|yaml))`[^`]*?\n\n```(?:python|yaml)\n(.*?)^```", re.M | re.S)
EXAMPLES: dict[str, str] = dict(FILE.findall(PAGE))

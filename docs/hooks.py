# SPDX-License-Identifier: MIT
"""What mkdocs does to the pages of docs, so that they read well in the repository too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

GUIDES = "Guides"


def on_config(config: Any) -> Any:
    """Pages that mkdocs.yml does not name are guides."""
    pages = {path.name for path in Path(config.docs_dir).glob("*.md")}
    guides = next(entry[GUIDES] for entry in config.nav if GUIDES in entry)
    guides += sorted(page for page in pages if f"'{page}'" not in str(config.nav))
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files that are not in the site become the files' names."""
    return re.sub(r"\[([^\]]*)\]\(\.\./([^)]*)\)", _named, markdown)


def _named(link: re.Match[str]) -> str:
    text, path = link[1].strip("`"), link[2]
    return f"`{path}`" if text == path else f"{text} (`{path}`)"

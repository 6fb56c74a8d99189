"""What mkdocs needs beyond docs/: pages from the top of the repository, and links that lead out of docs/.

Links are written for readers of the files themselves. On the site a link to a page at the top leads to its copy here,
and one to a source file or folder, which the site has not got, becomes its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s:]+?)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any, **_: object) -> Files:
    """Add the pages from the top of the repository."""
    for name in TOP_PAGES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: object) -> str:
    """Let links lead to where a page is on the site."""
    at_top = page.file.src_uri in TOP_PAGES
    folder = ROOT if at_top else (ROOT / "docs" / page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        file = (folder / target).resolve()
        if file.parent == ROOT and file.name in TOP_PAGES:
            return f"[{text}]({'../' * page.file.src_uri.count('/')}{file.name}{anchor})"
        if file.exists() and ROOT / "docs" not in file.parents:
            return text if text.startswith("`") else f"`{text}`"
        return f"[{text}]({target.removeprefix('docs/') if at_top else target}{anchor})"

    return _LINK.sub(led, markdown)

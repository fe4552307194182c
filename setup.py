# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot know: the repository's public address. A package says it, and the links and pictures of
README lead there, since an index shows README alone.
"""

from __future__ import annotations

import os
import re
import subprocess
from email import message_from_bytes
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
PICTURES = (".png", ".gif", ".svg")


def public(remote: str) -> str | None:
    """The page of a remote repository: git@HOST:PATH.git is https://HOST/PATH. None for a folder."""
    found = re.fullmatch(r"(?:https?://(?:[^@/]+@)?|(?:ssh://)?git@)([\w-]+(?:\.[\w-]+)+)[:/](.+?)(?:\.git)?/?", remote)
    return f"https://{found[1]}/{found[2]}" if found else None


def address() -> str | None:
    """Where this source is at home: a source distribution knows it, a workflow is told, a clone asks git."""
    if (ROOT / "PKG-INFO").is_file():
        urls = message_from_bytes((ROOT / "PKG-INFO").read_bytes()).get_all("Project-URL") or []
        return next((url.partition(", ")[2] for url in urls if url.startswith("Repository, ")), None)
    if "GITHUB_REPOSITORY" in os.environ:
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{os.environ['GITHUB_REPOSITORY']}"
    if not (ROOT / ".git").exists():
        return None
    try:
        asked = ["git", "remote", "get-url", "origin"]
        return public(subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip())
    except OSError:  # no git
        return None


def absolute(readme: str, home: str) -> str:
    """README with links that work wherever it is shown."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].endswith(PICTURES) else "blob"
        return f"]({home}/{kind}/HEAD/{found[1]})"

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", link, readme)


if __name__ == "__main__":
    text, home = (ROOT / "README.md").read_text(encoding="utf-8"), address()
    pages = {"Repository": "", "Issues": "/issues", "Changelog": "/blob/HEAD/CHANGELOG.md"}
    setup(
        long_description=absolute(text, home) if home else text,
        long_description_content_type="text/markdown",
        project_urls={name: home + page for name, page in pages.items()} if home else {},
    )

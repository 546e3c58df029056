#!/usr/bin/env python3
"""Prepares docs/ for mdBook: .ci/site.py FOLDER

Writes docs/book.toml to FOLDER and the pages to FOLDER/src, with the README as the first page. Links to
files outside docs/ lead to the repository, since the site does not have them. GITHUB_REPOSITORY names the
repository in a workflow, and the remote `origin` elsewhere. Without either, such links become plain text.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
# A block of code, which keeps its text.
BLOCK = re.compile(r"(^[ ]*```.*?^[ ]*```[ ]*$)", re.MULTILINE | re.DOTALL)
# mdBook draws no diagrams. The list below the diagram says the same.
DIAGRAM = re.compile(r"^```mermaid\n.*?^```\n\n?", re.MULTILINE | re.DOTALL)


def repository() -> "str | None":
    """The address of the repository, such as https://github.com/OWNER/NAME."""
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        return f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    address = re.fullmatch(r"(?:https://|git@)([^/:]+)[/:](.+?)(?:\.git)?", found.stdout.strip())
    return f"https://{address[1]}/{address[2]}" if address else None


def rewrite(page: Path, text: str, base: "str | None") -> str:
    """Leads the links of a page that leave docs/ to the repository."""

    def replace(link: "re.Match[str]") -> str:
        label, target = link.groups()
        file, mark, anchor = target.partition("#")
        if not file or "://" in file or file.startswith("mailto:"):
            return link[0]
        path = (page.parent / file).resolve()
        if path.is_relative_to(DOCS):
            return f"[{label}]({path.relative_to(DOCS)}{mark}{anchor})"
        if not base:
            return label
        kind = "tree" if path.is_dir() else "blob"
        return f"[{label}]({base}/{kind}/HEAD/{path.relative_to(ROOT)}{mark}{anchor})"

    parts = BLOCK.split(DIAGRAM.sub("", text))
    # Every second part is a block of code.
    parts[::2] = [LINK.sub(replace, part) for part in parts[::2]]
    return "".join(parts)


def main() -> None:
    target = Path(sys.argv[1])
    base = repository()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(DOCS, target / "src", ignore=shutil.ignore_patterns("book.toml"))
    book = (DOCS / "book.toml").read_text(encoding="utf-8")
    if base:
        book = book.replace("[output.html]\n", f'[output.html]\ngit-repository-url = "{base}"\n')
    (target / "book.toml").write_text(book, encoding="utf-8")
    for page in [README, *DOCS.glob("*.md")]:
        text = rewrite(page, page.read_text(encoding="utf-8"), base)
        if page.name == "SUMMARY.md":
            text = text.replace("# Summary\n", "# Summary\n\n[Vault Secrets Reloader](README.md)\n", 1)
        (target / "src" / page.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

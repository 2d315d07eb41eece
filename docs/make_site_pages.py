"""Pages of the site that are made when it is built, and never committed: a hook of MkDocs, see mkdocs.yml.

The table of recipes and the measures come from the registry, the pages of notebooks from their cells and what they
showed; changes, contributing and tables of benchmarks are the files of the repository that lie outside of docs/.
"""

from __future__ import annotations

import base64
import importlib.util
import inspect
import json
import posixpath
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from phosphene.registry import Entry, entries

ROOT = Path(__file__).parents[1]

# Files of the repository that are pages of the site, beside where they are there.
OUTSIDE = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/results/cams.md": "benchmarks/cams.md",
    "benchmarks/results/results.md": "benchmarks/results.md",
    "benchmarks/results/curves.png": "benchmarks/curves.png",
}
NOT_IN_NAV = """
methods
decisions
papers
recipes
benchmarks
"""


def method_pages() -> ModuleType:
    """docs/make_method_pages.py, which is a script and no module of a package."""
    spec = importlib.util.spec_from_file_location("make_method_pages", ROOT / "docs" / "make_method_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recipes_index() -> str:
    """The text of the table of all recipes."""
    rows = [
        f"| [{entry.title}]({name}.md) `{name}` | {method_pages()._docstring(entry)[0]} |"
        for name, entry in recipes().items()
    ]
    about = (
        "A recipe draws an image from a classifier alone, or from a layer and a folder of pictures. "
        "`--recipe NAME:option=value` configures it; `--preset best` (default) makes the best pictures, "
        "`--preset paper` takes the paper's own numbers. The [gallery](../gallery.md) shows what comes out."
    )
    return "\n".join(["# Recipes", "", about, "", "| recipe | draws |", "|---|---|", *rows]) + "\n"


def recipes() -> dict[str, Entry]:
    """The recipes that come with the package."""
    return {name: entry for name, entry in entries("recipe").items() if _is_ours(entry)}


def _is_ours(entry: Entry) -> bool:
    return entry.function.__module__.startswith("phosphene.")


def measures_page() -> str:
    """The text of the page of all metrics."""
    parts = [
        "# Measures",
        "Functions on arrays, in `phosphene.metrics`; `phosphene evaluate` uses them.",
    ]
    for entry in entries("metric").values():
        if not _is_ours(entry):
            continue
        text = (inspect.getdoc(entry.function) or "").replace("``", "`")
        body = re.split(r"\n(?:Args|Returns|Raises|Example):\n", text)[0]
        parts += [f"## {entry.title}", f"`{entry.function.__module__}.{entry.function.__name__}`", body]
        parts.append(method_pages()._citation(entry.paper))
    return "\n\n".join(parts) + "\n"


def decisions_list() -> str:
    """A link to each decision, by its own title."""
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    titles = (page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages)
    return "\n".join(f"- [{title}]({page.name})" for title, page in zip(titles, pages, strict=True)) + "\n"


def notebook_pages(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page: its text, its code, and what it showed when it was last run, with the pictures as files."""
    parts: list[str] = []
    files: dict[str, str | bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\((\w+)\.ipynb\)", r"(\1.md)", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/jpeg" in data:
                name = f"{path.stem}-{len(files)}.jpg"
                files[f"notebooks/{name}"] = base64.b64decode(data["image/jpeg"])
                parts.append(f"![what the cell shows]({name})")
            else:
                text = "".join(output.get("text") or data["text/plain"]).strip("\n")
                parts.append(f"```text\n{text}\n```")
    parts.append(f"[This page as a notebook]({path.name})")
    return {f"notebooks/{path.stem}.md": "\n\n".join(parts) + "\n", **files}


@cache
def generated() -> dict[str, str | bytes]:
    """The pages that exist nowhere but on the site, and their pictures, by address."""
    found: dict[str, str | bytes] = {"recipes/index.md": recipes_index(), "measures.md": measures_page()}
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        found |= notebook_pages(path)
    return found


def relinked(text: str, source: str, page: str) -> str:
    """The Markdown of a page of the repository with its links as they have to be on the site.

    What the site does not have (code, tests) is named without a link.
    """

    def link(match: re.Match[str]) -> str:
        shown, target, anchor = match["shown"], match["target"], match["anchor"] or ""
        where = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / where).is_dir():
            where += "/README.md"
        if not (ROOT / where).is_file():
            return match[0]  # left as it is, so that the build says which one is dead
        if where in OUTSIDE:
            found = OUTSIDE[where]
        elif where == "README.md":
            found = "index.md"
        elif where.startswith("docs/") and where.endswith((".md", ".jpg", ".png")):
            found = where.removeprefix("docs/")
        else:
            return shown
        return f"{match['bang']}[{shown}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    pattern = r"(?P<bang>!?)\[(?P<shown>[^\]]*)\]\((?P<target>(?!\w+:)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else re.sub(pattern, link, part) for part in parts)


def on_config(config: Any) -> Any:
    """Pages that hang below an index rather than in the navigation are no mistake."""
    from pathspec import GitIgnoreSpec

    config.not_in_nav = GitIgnoreSpec.from_lines(NOT_IN_NAV.split())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the files from outside of docs/."""
    from mkdocs.structure.files import File

    for page, text in generated().items():
        files.append(File.generated(config, page, content=text))
    for source, page in OUTSIDE.items():
        path = ROOT / source
        content: Any = path.read_text(encoding="utf-8") if path.suffix == ".md" else path.read_bytes()
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Mend the links that leave docs/."""
    address = page.file.src_uri
    if address in generated():
        return markdown
    if address == "decisions/README.md":
        markdown += "\n" + decisions_list()
    sources = {made: source for source, made in OUTSIDE.items()}
    return relinked(markdown, sources.get(address, f"docs/{address}"), address)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Nothing is fetched from elsewhere: what lets the search work from disk comes from the site itself."""
    return _own_worker(output, posixpath.dirname(page.file.dest_uri))


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """The same for the page that says that there is none."""
    return _own_worker(output, "") if template_name.endswith(".html") else output


def _own_worker(html: str, folder: str) -> str:
    mine = posixpath.relpath("javascripts/worker.js", folder or ".")
    return re.sub(r'src="?https://[^">]*/iframe-worker/[^">]*"?', f'src="{mine}"', html)

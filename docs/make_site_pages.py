"""Pages of the site that are made when it is built, and never committed: a hook of MkDocs, see mkdocs.yml.

Recipes with their presets' numbers and measures come from the registry; changes, contributing and tables of benchmarks
are the files of the repository that lie outside of docs/.
"""

from __future__ import annotations

import importlib.util
import inspect
import posixpath
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import phosphene.evaluation.sanity
import phosphene.metrics
import phosphene.synthesis  # noqa: F401  (these register recipes and metrics)
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


def recipe_page(entry: Entry) -> str:
    """The text of a recipe's page: what it does, its options, the numbers of its presets."""
    make = method_pages()
    summary, body, references = make._docstring(entry)
    command = {"fuse": "fuse zebra 'bell pepper'", "minds_eye": "features FOLDER"}.get(
        entry.name, f"impress ladybug --recipe {entry.name}"
    )
    parts = [
        f"# {entry.title}",
        f"`{entry.name}`",
        f"**Idea.** {summary}",
        body,
        f"```\nphosphene {command}\n```",
        "## Presets",
        "What an option is worth where it is not given.",
        presets_table(sys.modules[entry.function.__module__].PRESETS),
        "## Options",
        make._options(entry),
        "**References.** " + " ".join(references),
        f"Made from `{entry.function.__module__}` when this site was built.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def presets_table(presets: dict[str, Any]) -> str:
    """A row for each setting, a column for each preset."""
    columns = {name: asdict(settings) for name, settings in presets.items()}
    rows = [f"| setting | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for setting in next(iter(columns.values())):
        shown = (f"`{_number(values[setting])}`" for values in columns.values())
        rows.append(f"| `{setting}` | {' | '.join(shown)} |")
    return "\n".join(rows)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return " to ".join(_number(item) for item in value) if len(value) == 2 else ", ".join(map(_number, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


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


def generated() -> dict[str, str]:
    """The pages that exist nowhere but on the site, by address."""
    pages = {f"recipes/{name}.md": recipe_page(entry) for name, entry in recipes().items()}
    return {**pages, "recipes/index.md": recipes_index(), "measures.md": measures_page()}


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

"""Makes docs/methods and docs/recipes: a page for each, from the registry; methods with pictures and cost as counted.

python docs/make_method_pages.py            the text of all pages
python docs/make_method_pages.py --count    also every cost, passes and seconds, anew
python docs/make_method_pages.py --draw     also every cost and every picture, anew
python docs/make_method_pages.py --draw occlusion rise
"""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from PIL import Image
from skimage.data import chelsea, coffee

import phosphene
from phosphene.errors import ModelError
from phosphene.images import as_pictures
from phosphene.options import Option
from phosphene.registry import Entry, entries
from phosphene.render import draw, side_by_side
from phosphene.runtime import prepare
from phosphene.targets import Target
from phosphene.tasks.attributions import attribute
from phosphene.types import Attribution

DOCS = Path(__file__).parent
PAGES = DOCS / "methods"
RECIPES = DOCS / "recipes"
COSTS = PAGES / "costs.json"
TITLES = ("Egyptian cat", "espresso")
# Drawn with fewer passes than by default, said under the picture.
DRAWN_WITH = {"score_cam": "score_cam:channels=64"}
FAMILIES = {
    "gradient": "Gradients",
    "cam": "Class activation maps",
    "perturbation": "Perturbation",
    "feature": "Features",
}


def page_name(entry: Entry) -> str:
    """The file of a method's page: captum:lime -> captum_lime.md."""
    return entry.name.replace(":", "_") + ".md"


def methods() -> dict[str, Entry]:
    """The methods that come with the package; what users registered besides is theirs to describe."""
    return {
        name: entry
        for name, entry in entries("attribution").items()
        if entry.function.__module__.startswith("phosphene.attribution.")
    }


def recipes() -> dict[str, Entry]:
    """The recipes that come with the package."""
    return {
        name: entry
        for name, entry in entries("recipe").items()
        if entry.function.__module__.startswith("phosphene.synthesis.")
    }


def recipe_page(entry: Entry) -> str:
    """The text of a recipe's page: what it does, and its options with the value of each preset."""
    summary, body, references = _docstring(entry)
    columns = " | ".join(["option", "values", *entry.presets, ""])
    rows = [
        f"| `{option.name}` | {_cell(_values(option.type))} | "
        + " | ".join(f"`{_default(option.default_of(preset))}`" for preset in entry.presets)
        + f" | {_cell(option.doc)} |"
        for option in entry.options.values()
        if option.name != "preset"
    ]
    parts = [
        f"# {entry.title}",
        f"`{entry.name}` · {entry.family}",
        summary,
        body,
        "\n".join([f"| {columns}|", "|---" * (3 + len(entry.presets)) + "|", *rows]),
        f"An option is set in the spec, as in `{entry.name}:preset=paper,steps=100`.",
        "**References.** " + " ".join(references),
        f"Made from `{entry.function.__module__}` by docs/make_method_pages.py.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(entry: Entry, cost: dict[str, Any] | None) -> str:
    """The text of a method's page."""
    summary, body, references = _docstring(entry)
    parts = [
        f"# {entry.title}",
        f"`{entry.name}` · {FAMILIES[entry.family].lower()} · {_meaning(entry)}",
        f"**Idea.** {summary}",
        f"**Formula.** {body}" if body else "",
        f"**Caveat.** {entry.caveat}",
        _picture(entry, cost),
        _options(entry),
        f"```console\nphosphene explain cat.jpg --method {_spec(entry)}\n```",
        f"**Cost.** {_cost(cost)}" if cost and "forward" in cost else "",
        "**References.** " + " ".join(references),
        f"Made from `{entry.function.__module__}` by docs/make_method_pages.py.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(costs: dict[str, Any]) -> str:
    """The text of the table of all methods."""
    lines = ["# Methods", ""]
    machine = next((cost["processor"] for cost in costs.values() if "processor" in cost), "")
    lines += [
        "Pictures, passes and time an image: the embedded EfficientNet-Lite0, default options, one image of 224 px at "
        f"a time on one thread of {machine}."
    ]
    for family, title in FAMILIES.items():
        found = [entry for entry in methods().values() if entry.family == family]
        if found:
            lines += [
                "",
                f"## {title}",
                "",
                "| method | says | passes forward + back | time | mind |",
                "|---|---|---|---|---|",
            ]
        for entry in found:
            cost = costs.get(entry.name, {})
            shown = f"{_count(cost['forward'])} + {_count(cost['backward'])}" if "forward" in cost else "refused"
            seconds = _seconds(cost["seconds"]) if "seconds" in cost else "refused"
            link = f"[{entry.title}]({page_name(entry)}) `{entry.name}`"
            lines.append(f"| {link} | {_cell(_docstring(entry)[0])} | {shown} | {seconds} | {_cell(entry.caveat)} |")
    return "\n".join(lines) + "\n"


def _docstring(entry: Entry) -> tuple[str, str, list[str]]:
    """(first line, what stands before Args, references as citations)."""
    text = (inspect.getdoc(entry.function) or "").replace("``", "`")
    head, _, rest = text.partition("\nArgs:\n")
    summary, _, body = head.partition("\n")
    keys = re.search(r"^References:\n((?:    .*\n?)+)", rest, re.MULTILINE)
    named = re.findall(r"[a-z]+\d{4}", keys.group(1)) if keys else []
    return summary.strip(), body.strip(), [_citation(key) for key in dict.fromkeys([entry.paper, *named])]


def _citation(key: str) -> str:
    text = (DOCS / "references.bib").read_text(encoding="utf-8")
    found = re.search(r"@\w+\{" + key + r",(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise SystemExit(f"{key} is not in docs/references.bib")
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?$", found.group(1), re.MULTILINE))
    clean = {name: re.sub(r"[{}]|\\['\"]", "", value) for name, value in fields.items()}
    first = clean["author"].split(" and ")[0].split(",")[0]
    others = " et al." if " and " in clean["author"] else ""
    year = f", {clean['year']}" if "year" in clean else ""  # a report may have none
    return f"{first}{others}, *{clean['title']}*{year}."


def _meaning(entry: Entry) -> str:
    if entry.traits.get("wraps"):
        return "signed as what it wraps"
    return "signed: negative speaks against" if entry.signed else "never negative"


def _spec(entry: Entry) -> str:
    return f"'{entry.name}(saliency):samples=8'" if entry.traits.get("wraps") else entry.name


def _picture(entry: Entry, cost: dict[str, Any] | None) -> str:
    if cost and "refused" in cost:
        return f"On the embedded network it refuses: *{cost['refused']}*"
    picture = Path("images") / (Path(page_name(entry)).stem + ".jpg")
    drawn_with = f"\n\nDrawn with `{DRAWN_WITH[entry.name]}`." if entry.name in DRAWN_WITH else ""
    return f"![{entry.title} of {' and '.join(TITLES)}]({picture.as_posix()}){drawn_with}" if cost else ""


def _options(entry: Entry) -> str:
    rows = [_option(option) for option in entry.options.values()]
    return "\n".join(["| option | values | default | |", "|---|---|---|---|", *rows]) if rows else "No options."


def _option(option: Option) -> str:
    return f"| `{option.name}` | {_cell(_values(option.type))} | `{_default(option.default)}` | {_cell(option.doc)} |"


def _values(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if "LayerName" in str(kind) or torch.nn.Module in get_args(kind):
        return "layer"
    if get_origin(kind) is tuple:
        return "numbers, `0.1x0.2`" if Ellipsis in get_args(kind) else "`10` or `10x20`"
    names = {int: "whole number", float: "number", bool: "`true`, `false`", str: "method", type(None): "`none`"}
    return " or ".join(names.get(one, str(one)) for one in get_args(kind) or (kind,))


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("``", "`")


def _cost(cost: dict[str, Any]) -> str:
    """Passes of the network for each image, in words."""
    parts = [f"{_count(cost['forward'])} forward"]
    if cost["backward"]:
        parts.append(f"{_count(cost['backward'])} backward")
    text = f"{' and '.join(parts)} pass{'es' if cost['forward'] + cost['backward'] > 1 else ''} of the network an image"
    behind = cost["behind"] - cost["forward"]
    text += f", and {_count(behind)} of the layers behind the one looked at" if behind > 1 else ""
    return f"{text}: {_seconds(cost['seconds'])} on one thread of {cost['processor']} at 224 px, batch of one."


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


def _count(number: float) -> str:
    return f"{number:g}"


class Counter:
    """Counts, while it is entered, how many images pass the first convolution and the last linear layer."""

    def __init__(self) -> None:
        self.first = self.last = self.backward = 0

    def __enter__(self) -> Counter:
        self.handle = torch.nn.modules.module.register_module_forward_hook(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def _see(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            self.last += len(output)
        if isinstance(module, torch.nn.Conv2d) and module.in_channels == 3:
            self.first += len(output)
        if isinstance(module, torch.nn.Linear) and output.requires_grad:
            output.register_hook(self._see_gradient)

    def _see_gradient(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)


def counted(entry: Entry) -> dict[str, Any]:
    """How many passes a method takes for one image, counted on a small one."""
    classifier = prepare(phosphene.load_classifier("embedded"))
    side = 224 if "window" in entry.options else 64  # the number of windows depends on the image
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    classifier.layer_name(classifier.default_layer)
    try:
        attribute(classifier, images, Target.of(1), "grad_cam")  # what is looked up once is looked up now
        with Counter() as counter:
            attribute(classifier, images, Target.of(1), entry.name)
    except ModelError as error:
        return {"refused": str(error)}
    passes = {"forward": counter.first, "backward": counter.backward, "behind": counter.last}
    return {**passes, "seconds": float(f"{timed(entry):.2g}"), "processor": processor()}


def timed(entry: Entry) -> float:
    """Seconds of processor time for one image at full size, which does not count what else the machine does.

    The median of three, of one where that takes long.
    """
    torch.set_num_threads(1)
    classifier = prepare(phosphene.load_classifier("embedded"))
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    attribute(classifier, images, Target.of(1), "grad_cam")
    seconds: list[float] = []
    while len(seconds) < (1 if sum(seconds) > 3 else 3):
        start = time.process_time()
        attribute(classifier, images, Target.of(1), entry.name)
        seconds.append(time.process_time() - start)
    return sorted(seconds)[len(seconds) // 2]


def processor() -> str:
    """The processor as the system names it."""
    file = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", file.read_text(), re.MULTILINE) if file.exists() else []
    return names[0] if names else platform.machine()


def drawn(entry: Entry, pictures: list[Image.Image]) -> None:
    """Explain both photographs and save the picture."""
    classifier = prepare(phosphene.load_classifier("embedded"))
    target = Target.of([classifier.labels.find(title) for title in TITLES])
    views = classifier.views(pictures, "whole")
    result = attribute(
        classifier, classifier.preprocessed(pictures, views), target, DRAWN_WITH.get(entry.name, entry.name)
    )
    sheet = side_by_side(_with_pictures(result, pictures, views), height=150)
    sheet.convert("RGB").save(PAGES / "images" / (Path(page_name(entry)).stem + ".jpg"), quality=82, optimize=True)


def _with_pictures(result: Attribution, pictures: list[Image.Image], views: Any) -> list[Image.Image]:
    shown: list[Image.Image] = []
    for index, picture in enumerate(pictures):
        one = replace(result[index], views=(views[index],), pictures=(picture,))
        shown += [picture, draw(one, side=400)]
    return shown


def main(arguments: list[str]) -> None:
    (PAGES / "images").mkdir(parents=True, exist_ok=True)
    costs = json.loads(COSTS.read_text()) if COSTS.exists() else {}
    draw = arguments[:1] == ["--draw"]
    if draw or arguments[:1] == ["--count"]:
        pictures = as_pictures([chelsea(), coffee()])
        for name in arguments[1:] or methods():
            costs[name] = counted(methods()[name])
            print(name, costs[name], flush=True)
            if draw and "refused" not in costs[name]:
                drawn(methods()[name], pictures)
            COSTS.write_text(json.dumps(dict(sorted(costs.items())), indent=1) + "\n")
    for name, entry in methods().items():
        (PAGES / page_name(entry)).write_text(page(entry, costs.get(name)), encoding="utf-8")
    (PAGES / "README.md").write_text(index(costs), encoding="utf-8")
    RECIPES.mkdir(exist_ok=True)
    for name, entry in recipes().items():
        (RECIPES / f"{name}.md").write_text(recipe_page(entry), encoding="utf-8")
    print(f"{len(methods())} pages in {PAGES.name}" + ("" if find_spec("captum") else "; captum's need captum"))


if __name__ == "__main__":
    main(sys.argv[1:])

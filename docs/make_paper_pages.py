"""Makes docs/papers: a page for each paper, from runs of `phosphene figures`, with a reading of each figure.

python docs/make_paper_pages.py RUN...      pictures, verdicts and what holds anew from these runs; then all pages

Pictures and rows are kept in docs/papers (figures.json, images), so that the pages can be written again without a run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from phosphene.figures import Figure, figures

PAGES = Path(__file__).parent / "papers"
ROWS = PAGES / "figures.json"
WIDTH = 900

# Title of each page, what the paper is, and the command that made the page's figures.
ABOUT = {
    "deep_inside": (
        "Deep Inside Convolutional Networks",
        "Simonyan, Vedaldi and Zisserman (2014): class models, saliency maps, localization without boxes, and what "
        "gradients have to do with DeconvNets.",
        "phosphene figures deep_inside --pooling-model squeezenet1_0.py:classifier --images val --boxes boxes.csv",
    ),
    "slides": (
        "The slides about Deep Inside",
        "Slides for a lecture on the same paper. What they add to it in words is shown here.",
        "phosphene figures slides",
    ),
    "minds_eye": (
        "The Mind's Eye",
        "Stergiou (2021): what a layer responds to in a set of images, drawn.",
        "phosphene figures minds_eye",
    ),
    "sci": (
        "Saliency-driven Class Impressions",
        "Addepalli, Tamboli, Venkatesh Babu and Banerjee (2020): single objects from the memory of a classifier.",
        "phosphene figures sci --judge mobilenet_v2.py:classifier",
    ),
    "report": (
        "Visual Explanations for Deep Neural Nets",
        "Midha and Garg's report: saliency, occlusion and class activation maps, of a dog-or-wolf head too.",
        "phosphene figures report --class-folders dogs_vs_wolves --images val --boxes boxes.csv",
    ),
}

# What is told at the end of a page: runs too long for a figure.
FURTHER = {
    "minds_eye": """## The preset `paper` to its end

`phosphene features exemplars --layer features.12 --preset paper --model squeezenet1_0.py:classifier`, the largest of
three facets of 300 pictures (churches)

![Start, and steps 10, 100, 500, 1000 and 2001](images/minds_eye-paper.jpg)

All 2001 steps at 512 pixels on SqueezeNet 1.0 took 2251 s on one thread of a busy machine. It does not draw a church:
the cosine with the target is .80 at the first step, .86 at step 30 and .81 at the end, below that of the weighted sum
of the exemplars it starts from (.93 at the network's own 227 pixels), and the network reads a komondor (.44). Inside
the mask the blur and the denoising of every tenth step wipe out more than the steps draw. The likely cause is the
rate: .5 in units of the normalized input is what the published script has for networks whose inputs have about unit
variance; SqueezeNet's weights, of the time of Caffe, take bytes less their mean, where such a step is small. With
steps as torchvision's networks have them, one run that was ended after 30 steps, the opposite happens: the middle is
saturated noise, and the cosine falls to .73. The paper's numbers belong to the paper's networks; the preset `best`
makes steps of a size of their own on any network.""",
}

# What a person who looked at each picture has to say about it.
READINGS: dict[str, str] = json.loads((PAGES / "readings.json").read_text(encoding="utf-8"))


def kept(run: Path) -> dict[str, dict[str, Any]]:
    """What a run found, by figure; its pictures made small and put beside the pages."""
    rows = {}
    model = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["model"]["name"]
    for row in json.loads((run / "figures.json").read_text(encoding="utf-8"))["figures"]:
        name = f"{row['paper']}-{row['number']}"
        if row["status"] == "ok":
            with Image.open(run / row["picture"]) as picture:
                small = picture.convert("RGB")
                small.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
                small.save(PAGES / "images" / f"{name}.jpg", quality=80)
        rows[name] = {"verdict": row["verdict"], "checks": row.get("checks"), "error": row["error"], "model": model}
    return rows


def verdict(rows: dict[str, dict[str, Any]], figure: Figure) -> str:
    """In a table: what holds of a figure's claim, or that nothing is known."""
    if figure.name not in rows:
        return "not made yet"
    return rows[figure.name]["verdict"] or "left out"


def page(paper: str, rows: dict[str, dict[str, Any]]) -> str:
    """The text of a paper's page."""
    title, about, command = ABOUT[paper]
    own = figures(paper)
    models = sorted({rows[figure.name]["model"] for figure in own if figure.name in rows})
    table = [f"| {figure.number} | {figure.title} | {verdict(rows, figure)} |" for figure in own]
    made = f"Made by `{command}`" + (f" with {', '.join(models)}." if models else ".")
    made += " A verdict follows from the checks below each figure: all hold, some, or none."
    parts = [
        f"# {title}",
        about,
        f"{made} The paper's own network is another one.",
        "\n".join(["| figure | what is seen | verdict |", "|---|---|---|", *table]),
    ]
    for figure in own:
        plain = figure.number.isdigit()
        number = f"Figure {figure.number}" if plain else figure.number.replace("-", " ").capitalize()
        parts += [f"## {number}: {figure.title}", f"*The paper:* {figure.claim}", f"`{figure.command}`"]
        row = rows.get(figure.name)
        if row is None:
            parts.append(f"Not made yet: `phosphene figures {figure.name}`.")
        elif row["verdict"] is None:
            parts.append(f"Left out: {row['error']}")
        else:
            checks = [f"- {'holds' if holds else 'does not hold'}: {text}" for text, holds in row["checks"].items()]
            parts += [f"![{figure.title}](images/{figure.name}.jpg)", f"**{row['verdict'].capitalize()}.**"]
            parts += ["\n".join(checks), *([READINGS[figure.name]] if figure.name in READINGS else [])]
    parts += [FURTHER[paper]] if paper in FURTHER else []
    return "\n\n".join(parts) + "\n"


def index(rows: dict[str, dict[str, Any]]) -> str:
    """The text of the table of all figures."""
    lines = ["| paper | figure | what is seen | verdict |", "|---|---|---|---|"]
    for paper, (title, *_) in ABOUT.items():
        lines += [
            f"| [{title}]({paper}.md) | {figure.number} | {figure.title} | {verdict(rows, figure)} |"
            for figure in figures(paper)
        ]
    about = (
        "`phosphene figures PAPER|all --out DIR` makes each figure of the five papers behind this library with your "
        "network, measures what the paper claims with it, and says whether it holds: `index.html` for people, "
        "`figures.json` for programs. Without further options the pictures are packaged photographs; "
        "`--pooling-model`, `--judge`, `--pictures`, `--class-folders`, `--images` and `--boxes` bring your own."
    )
    return "\n\n".join(["# The papers", about, "\n".join(lines)]) + "\n"


def main(runs: list[str]) -> None:
    """Take over what runs made, and write all pages."""
    (PAGES / "images").mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else {}
    for run in runs:
        rows |= kept(Path(run))
    ROWS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n", encoding="utf-8")
    for paper in ABOUT:
        (PAGES / f"{paper}.md").write_text(page(paper, rows), encoding="utf-8")
    (PAGES / "README.md").write_text(index(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

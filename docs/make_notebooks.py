"""Runs the notebooks of docs/notebooks from beginning to end, and keeps what they show, made small.

python docs/make_notebooks.py [NAME...]     all, or those named; needs nbclient and ipykernel

A result shows itself as HTML that holds its pictures, too much for a repository: what is kept is one JPEG for each.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOKS = Path(__file__).parent / "notebooks"
# Widest picture that is kept, in pixels.
_WIDTH = 720
# Steps of drawings where only it counts that they run.
_FEW = 6


def executed(path: Path, folder: Path, *, shorter: bool = False) -> Any:
    """The notebook with all that its cells show, run in a folder by a kernel of this interpreter.

    Args:
        path: of the notebook.
        folder: to run in.
        shorter: whether drawings take a few steps alone.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    if shorter:
        for cell in notebook.cells:
            cell.source = re.sub(r"^STEPS = \d+", f"STEPS = {_FEW}", cell.source, flags=re.MULTILINE)
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return notebook


def shows(cell: Any) -> bool:
    """Whether a cell is there for the result that it shows."""
    return "shows" in cell["metadata"].get("tags", ())


def small(output: Any) -> Any:
    """What is kept of an output; None for a progress bar."""
    data = output.get("data", {})
    if output["output_type"] == "display_data" and "image/png" not in data:
        return None
    if "image/png" in data:
        with Image.open(io.BytesIO(base64.b64decode(data["image/png"]))) as picture:
            shown = picture.convert("RGB")
        shown.thumbnail((_WIDTH, 4 * _WIDTH), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        shown.save(content, "JPEG", quality=80)
        output["data"] = {
            "image/jpeg": base64.b64encode(content.getvalue()).decode("ascii"),
            "text/plain": data["text/plain"],
        }
    return output


def main(names: list[str]) -> None:
    """Run notebooks, and write them again with what they showed."""
    import tempfile

    import nbformat

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.execution_count = None
                kept = [small(output) for output in cell.outputs]
                cell.outputs = [output for output in kept if output is not None]
                for output in cell.outputs:
                    if "execution_count" in output:
                        output["execution_count"] = None
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])

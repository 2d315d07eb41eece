"""The command `phosphene`: parses, calls runs, prints. One file per command, each found by itself.

Nothing heavy is imported before a command really runs, so that help and errors come at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pkgutil import iter_modules

from phosphene.allocator import keep_freed_memory
from phosphene.cli.app import app

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def main() -> None:
    """Run the command line; the process exits 0 all well, 1 some inputs failed, 2 usage."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as for a service: what is said goes nowhere
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    # Before PyTorch is loaded, which reads them once: threads that spin while they wait take the time of others that
    # work, and beside a busy process a pass takes several times as long. Some microseconds of it save what waking costs
    # between small layers: an impression alone takes 16 seconds instead of 21, and a tenth more beside busy processes.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    keep_freed_memory()
    app(prog_name="phosphene")


__all__ = ["app", "main"]

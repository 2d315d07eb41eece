"""What marks a folder as a run of ours, finished or not."""

from __future__ import annotations

import re

MANIFEST = "manifest.json"
# Bytes at the beginning of a manifest that say whether it is one of ours.
MANIFEST_HEAD = 256

_RUN = re.compile(rb'\A\{\s*"schema":\s*\d+,\s*"phosphene":\s*"')


def is_manifest_of_run(head: bytes) -> bool:
    """Whether a manifest is one of ours, by its first bytes.

    Example:
        >>> is_manifest_of_run(b'{"schema": 2, "phosphene": "0.1.0", '), is_manifest_of_run(b'{"name": "app"}')
        (True, False)
    """
    return _RUN.match(head) is not None

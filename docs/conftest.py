"""What `make check` leaves out of the doctests: code that only the site's own environment can import."""

from __future__ import annotations

collect_ignore = ["griffe_examples.py"]

"""Self-contained HTML from a run folder; needs neither model nor GPU."""

from phosphene.report.page import write_report

__all__ = ["write_report"]

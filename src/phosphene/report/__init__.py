"""HTML from a run folder: one file, or pages beside the pictures; needs neither model nor GPU."""

from phosphene.report.page import LARGEST, ReportMode, write_report

__all__ = ["LARGEST", "ReportMode", "write_report"]

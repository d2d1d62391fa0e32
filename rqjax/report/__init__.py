"""Runs as one page for people: curves, pictures, where the time went, the configuration."""

from rqjax.report.page import write_report

__all__ = ["write_report"]

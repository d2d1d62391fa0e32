"""Runs as one page for people: curves, pictures, where the time went, the configuration."""

from rqjax.report.page import csv_name, write_report

__all__ = ["csv_name", "write_report"]

"""Reports: a run, or several side by side, as one page of HTML, as text and as data."""

from lumi.reporting.report import ReportConfig, write_report

__all__ = ["ReportConfig", "write_report"]

"""The report of a run: one file that holds all of it, to be mailed."""

from coordinator.views.report.write import REPORT_FILE, leave_report, write_report

__all__ = ["REPORT_FILE", "leave_report", "write_report"]

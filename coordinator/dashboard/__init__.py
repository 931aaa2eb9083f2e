"""The web page of a run: reads its ledger, changes nothing, works offline."""

from coordinator.dashboard.access import DEFAULT_ADDRESS, page_url, parse_page
from coordinator.dashboard.child import page_process
from coordinator.dashboard.serve import serve_page

__all__ = ["DEFAULT_ADDRESS", "page_process", "page_url", "parse_page", "serve_page"]

"""The web page of a run: reads its ledger, changes nothing, works offline."""

from coordinator.page_access import DEFAULT_ADDRESS, page_url, parse_page
from coordinator.views.page.child import page_process
from coordinator.views.page.serve import serve_page

__all__ = ["DEFAULT_ADDRESS", "page_process", "page_url", "parse_page", "serve_page"]

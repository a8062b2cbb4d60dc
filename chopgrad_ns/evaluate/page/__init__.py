"""The report: one static page with what runs made, to be opened from disk."""

from chopgrad_ns.evaluate.page.runs import Run, add_method, open_run
from chopgrad_ns.evaluate.page.write import check_output, write_page

__all__ = ["Run", "add_method", "check_output", "open_run", "write_page"]

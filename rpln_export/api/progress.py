"""Who is told of the steps of a long call: nobody, a watcher of the caller's, or one that shows them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rpln_export.api.notebook import NotebookWatcher
from rpln_export.commands.show.progress import ProgressWatcher
from rpln_export.steps import Silent, Watcher


@contextmanager
def watching(*, progress: bool | Watcher) -> Iterator[Watcher]:
    """Yield the watcher that `progress` stands for.

    True stands for one that shows the steps: below the cell of a notebook, elsewhere on stderr.
    """
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield Silent()
    else:
        with NotebookWatcher() if in_notebook() else ProgressWatcher() as watcher:
            yield watcher


def in_notebook() -> bool:
    """Return whether a kernel of Jupyter runs this process, so that what is displayed appears below a cell."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None

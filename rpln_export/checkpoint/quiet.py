"""A context in which transformers writes nothing to the terminal while it loads and saves."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and its report of missing weights off the terminal.

    The commands show their own steps, and a missing weight is an error there, with more to say, or was asked for.
    """
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if had_bars:
            logging.enable_progress_bar()

"""How every command shows its help: as wide as the terminal up to 110 columns, options in groups."""

from typing import Final

import cloup

HELP: Final = cloup.Context.settings(
    formatter_settings=cloup.HelpFormatter.settings(max_width=110, col1_max_width=34), show_constraints=False
)

"""What shows itself to people: a few lines in a terminal, and a table in a notebook."""

from collections.abc import Mapping
from html import escape


class Described:
    """The base of classes whose `repr` is a few facts, a line for each."""

    __slots__ = ()

    def described(self) -> Mapping[str, str]:
        """Return the facts by their names, the most important first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        facts = self.described()
        width = max(map(len, facts), default=0)
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {fact}" for name, fact in facts.items())])

    def _repr_html_(self) -> str:
        """Return the facts as a table, for notebooks."""
        rows = (
            f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(fact)}</td></tr>'
            for name, fact in self.described().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{''.join(rows)}</table>"


def megabytes(size: int) -> str:
    """Return a size in bytes as people read it."""
    return f"{size / 1e6:,.1f} MB"


def options_in_words(options: Mapping[str, object]) -> str:
    """Return options as they are typed in a call."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())

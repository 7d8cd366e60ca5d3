"""The pip commands that messages name.

rpln-runtime and rpln-export are on no package index: they are installed from a clone or from wheels (`make wheels`).
Where one of them is installed already, pip finds in its metadata what an extra consists of. So the commands for extras
work wherever a message can be printed; a command for another version has to name its wheel.
"""


def extras_command(*extras: str, distribution: str = "rpln-runtime") -> str:
    """Return the command that adds `extras` to `distribution`, which is installed."""
    return f'pip install "{distribution}[{",".join(extras)}]"'


def version_command(version: str = "VERSION") -> str:
    """Return the command that installs a version of rpln-runtime from its wheel."""
    return f"pip install rpln_runtime-{version}-py3-none-any.whl (`make wheels` in a clone of that version makes it)"

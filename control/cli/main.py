"""``magnetar``: the command line of tenants and operators.

Each command is a thin client of the control socket. Nothing of the agent is imported, except by
``magnetar up`` and ``magnetar control``, which are services.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0, 1 refused or failed, 2 wrong usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Which kind of threads a service uses has to be settled before anything else is imported.
    if words[:1] == ["up"]:
        from compute.cmd import up

        return up.main(words[1:])
    if words[:1] == ["control"]:
        from compute.cmd import control

        return control.main(words[1:])
    if words[:1] == ["control"]:
        from compute.cmd import control

        return control.main(words[1:])
    from control.cli.app import Magnetar

    try:
        code = Magnetar().run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    if code == 141:  # whoever read our output went away; nothing is left to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())

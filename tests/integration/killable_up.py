"""``magnetar up`` that is killed by SIGKILL at the crash point named by MAGNETAR_KILL_AT.

Run as ``python -m tests.integration.killable_up --config-file FILE``.
"""

from compute import concurrency

concurrency.setup()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

from compute.engine import crashpoints  # noqa: E402

WANTED = os.environ.get("MAGNETAR_KILL_AT", "")


def die(name: str) -> None:
    """End this process as ``kill -9`` does."""
    if name == WANTED:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    from compute.cmd import up

    crashpoints.arm(die)
    sys.exit(up.main())

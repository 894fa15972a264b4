"""``magnetar-compute`` that is killed by SIGKILL at the crash point named by MAGNETAR_KILL_AT.

Run as ``python -m tests.integration.killable_agent --config-file FILE``.
"""

from tests.integration.killable_up import die  # first: it settles which threads are used

if __name__ == "__main__":
    import sys

    from compute.cmd import compute
    from compute.engine import crashpoints

    crashpoints.arm(die)
    sys.exit(compute.main())

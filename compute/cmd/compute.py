"""magnetar-compute: the agent of one host, driven by a control plane over RPC."""

from compute import concurrency

concurrency.setup()

import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop."""
    from compute.cmd import common

    words = list(sys.argv[1:] if argv is None else argv)
    conf = common.prepare(words, "magnetar-compute")

    def make() -> common.Agent:
        lock = common.lock_state(conf.state_path)
        return common.Agent(conf, common.transport_for(conf), lock)

    return common.serve(make)


if __name__ == "__main__":
    sys.exit(main())

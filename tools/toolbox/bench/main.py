"""tools/bench: measures, shows progress on stderr, prints figures on stdout."""

from __future__ import annotations

import argparse
import pathlib
import sys
import tempfile

from tests.integration import libvirtd
from tests.integration.agent import RealAgent
from tools.toolbox.bench import boots, scale
from tools.toolbox.bench.figures import Figure, as_json, say, table
from tools.toolbox.bench.raw import Raw

# 20 guests at once do not fit on two CPUs otherwise.
ROOM = "cpu_allocation_ratio = 16\n[control]\nmax_io_ops = 100"


def real(quick: bool) -> list[Figure]:
    """Everything that needs a real libvirtd."""
    with (
        libvirtd.PrivateLibvirtd() as daemon,
        RealAgent(daemon.uri, more=ROOM) as agent,
        tempfile.TemporaryDirectory(prefix="magnetar-bench-") as directory,
    ):
        agent.start()
        agent.load_image()
        agent.terminate()
        say("start and memory")
        figures = boots.start_and_memory(agent)
        raw = Raw(daemon.uri, pathlib.Path(directory))
        figures += boots.one_by_one(agent, raw, 3 if quick else 7, say)
        for count in (4,) if quick else (10, 20):
            figures += boots.together(agent, raw, count, say)
        say("end")
        figures.append(
            Figure("SIGTERM to end, idle", agent.terminate(), "s", "seconds", "nova-compute: 162")
        )
        return figures


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("-f", "--format", choices=("table", "json"), default="table")
    words = parser.parse_args()
    reason = libvirtd.missing()
    figures = []
    if reason:
        say(f"skipped what needs libvirt: {reason}")
    else:
        figures += real(words.quick)
    say("calls and statements with many guests")
    figures += scale.measure()
    print(as_json(figures) if words.format == "json" else table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

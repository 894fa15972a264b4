"""nmi: a non-maskable interrupt, which a guest's kernel is set up to answer with a crash dump."""

from __future__ import annotations

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed
from compute.steps.sleep import need_awake


class Nmi(Step):
    """Interrupt the guest. Never twice: a second interrupt can break the dump that the first began,
    and nothing tells afterwards whether one arrived."""

    name = "nmi"

    def probe(self, run: Run) -> Probe:
        raise Failed(
            f"Whether guest {run.row.guest} got the interrupt is not known: it was lost sight of "
            "while it was sent.",
            now="It was not sent again: a second one can break the dump that the first began.",
            next="Look at the guest's console, and ask again if it went on as if nothing had been.",
            code="nmi_unknown")

    def do(self, run: Run) -> None:
        need_awake(run, "interrupted")
        run.world.driver.inject_nmi(run.row.guest)

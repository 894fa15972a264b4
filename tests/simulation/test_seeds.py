"""Simulated worlds in which everything goes wrong, one for each seed."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

import testtools

from tests.simulation.simulation import Simulation

SEEDS = int(os.environ.get("MAGNETAR_SEEDS", "150"))
ONLY = os.environ.get("MAGNETAR_SEED")
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Seeds(testtools.TestCase):
    """One method for each seed; they are added below."""

    def check(self, seed: int) -> None:
        root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-sim-", dir=MEMORY))
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        sim = Simulation(seed, root)
        try:
            sim.run()
        except BaseException as error:  # noqa: BLE001 - told with the trace
            self.fail("\n".join([
                *sim.lines, f"{type(error).__name__}: {error}",
                f"Reproduce: MAGNETAR_SEED={seed} python -m testtools.run {__name__}"]))


def _add(seed: int) -> None:
    def test(self) -> None:
        self.check(seed)

    test.__name__ = f"test_seed_{seed}"
    setattr(Seeds, test.__name__, test)


for _seed in [int(ONLY)] if ONLY else range(1, SEEDS + 1):
    _add(_seed)

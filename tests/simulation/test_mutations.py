"""Proof that the simulation can fail: with a safeguard taken out, some seed breaks a promise.

Which seed it is changes with the product, so those of the theme that fits are tried in turn. Each
mutation is put into a forked child only.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable

from compute.recovery.reconcile import Reconciler
from compute.steps.admission import Admission
from db.journal import Journal
from tests.crash.matrix import child
from tests.fakes import FakeConductor
from tests.simulation.faults import Faults
from tests.simulation.simulation import HOSTS
from tests.simulation.test_seeds import Simulated
from tests.simulation.watch import Violation

SEEDS = range(1, 1000)
TRIES = 40
NOTICED = 9  # the child's exit status


def no_memory_and_no_admission() -> None:
    """A repeated or late message is carried out as if it were new."""
    accept, numbers = Journal.accept, itertools.count()

    def anew(self, verb, guest, request_id, request, **more):
        return accept(self, verb, guest, f"{request_id}-{next(numbers)}", request, **more)

    def admit(self, run):
        run.instance = run.world.conductor.instance(run.context, run.row.guest)

    Journal.accept, Admission.do = anew, admit


def old_facts_are_believed() -> None:
    """What was seen before an operation ended is acted on."""
    Reconciler._went_on = lambda self, facts: False


def no_compare_and_swap() -> None:
    """States are saved whatever the record says."""
    save = FakeConductor.save
    FakeConductor.save = lambda self, context, prim, changes, **expected: save(
        self, context, prim, changes)


class SimulationMutations(Simulated):
    def assertNoticed(self, theme: str, mutate: Callable[[], None]) -> None:
        """Some seed of a theme breaks a promise when the product is mutated."""
        seeds = [seed for seed in SEEDS
                 if Faults(random.Random(seed), HOSTS).theme == theme][:TRIES]

        def work() -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            mutate()
            for seed in seeds:
                try:
                    self.simulation(seed).run()
                except Violation:
                    os._exit(NOTICED)

        self.assertEqual(NOTICED, os.waitstatus_to_exitcode(child(work)),
                         f"{TRIES} seeds of theme {theme} did not notice: {mutate.__doc__}")

    def test_no_memory_and_no_admission(self):
        self.assertNoticed("stale casts", no_memory_and_no_admission)

    def test_old_facts_are_believed(self):
        self.assertNoticed("passes", old_facts_are_believed)

    def test_no_compare_and_swap(self):
        self.assertNoticed("twice", no_compare_and_swap)

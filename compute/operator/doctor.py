"""doctor: is this host fit, and is this agent well? Looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from compute.errors import MagnetarError
from compute.recovery.reconcile import Reconciler
from db.journal import rows

# A check returns (ok, what was found, what to do); ok None means: worth knowing, not wrong.
Result = tuple[bool | None, str, str]
LOW_DISK = 0.05  # share of free space below which the host is not fit


def examine(checks: Mapping[str, Callable[[], Result]]) -> dict[str, Any]:
    """Run all checks; one that raises has failed with that error."""
    results = []
    for name, look in checks.items():
        try:
            ok, found, advice = look()
        except MagnetarError as error:
            ok, found, advice = False, error.what, error.next or error.now
        result = {True: "ok", False: "wrong", None: "note"}[ok]
        results.append({"check": name, "result": result, "found": found, "next": advice})
    return {"healthy": all(r["result"] != "wrong" for r in results), "checks": results}


def standard_checks(reconciler: Reconciler, conductor: Any) -> dict[str, Callable[[], Result]]:
    """The checks of every agent; the driver adds its own when it has ``doctor_checks``."""
    world = reconciler.world
    conf = world.conf

    def hypervisor() -> Result:
        facts = world.driver.host_facts()
        major, rest = divmod(facts.hypervisor_version, 1_000_000)
        version = f"{major}.{rest // 1000}.{rest % 1000}"
        return True, (f"{facts.hypervisor_type} {version} answers on "
                      f"{facts.hypervisor_hostname}: {facts.vcpus} CPUs, {facts.memory_mb} MiB of "
                      f"memory, virt_type {facts.virt_type}"), ""

    def control_plane() -> Result:
        conductor.ping(5)
        return True, "the conductor answers", ""

    def journal() -> Result:
        with world.journal.engine.connect() as connection:
            verdict = connection.execute(sa.text("PRAGMA quick_check")).scalar()
        return verdict == "ok", f"quick_check says {verdict}", \
            "" if verdict == "ok" else "Stop the agent and restore the journal from a backup."

    def operations() -> Result:
        waiting = [r for r in world.journal.find(active=True) if r.state == rows.NEEDS_OPERATOR]
        if waiting:
            return False, f"{len(waiting)} operations need an operator", \
                f"magnetar op show {waiting[0].id}"
        return True, f"{len(world.journal.find(active=True))} operations are going on", ""

    def scheduling() -> Result:
        if world.journal.fact("enabled") is False:
            return None, "the control plane disabled this host: it gets no new guests", \
                f"magnetar host enable {world.host}, when it shall"
        return True, "the control plane may send guests", ""

    checks: dict[str, Callable[[], Result]] = {
        "hypervisor": hypervisor, "control plane": control_plane, "scheduling": scheduling,
        "journal": journal, "operations": operations,
        "state directory": lambda: _directory(conf.state_path),
        "instances directory": lambda: _directory(conf.disk.instances_path),
    }
    checks.update(world.driver.doctor_checks())
    return checks


def _directory(path: str) -> Result:
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return False, f"{path} cannot be read and written", "Correct its owner and mode."
    usage = shutil.disk_usage(path)
    found = f"{path}: {usage.free >> 30} GiB of {usage.total >> 30} GiB free"
    if usage.free < usage.total * LOW_DISK:
        return False, found, "Free space, or move guests to another host."
    return True, found, ""

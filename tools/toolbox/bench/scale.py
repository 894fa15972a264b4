"""Calls and statements at start and in one pass, with 1, 20 and 1,000 guests.

libvirt calls are counted on libvirt's own test driver with that many domains of ours; SQL
statements of the journal and conductor calls on the fake driver, by the same reconciler.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
import types
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from compute.manager import Manager
from compute.model import states
from compute.recovery.reconcile import Reconciler, restore_claims
from tests import fakes
from tools.toolbox.bench.figures import Figure

SIZES = (1, 20, 1000)
DOMAIN = """<domain type='test'><name>guest-{number}</name><uuid>{uuid}</uuid>
<memory unit='MiB'>64</memory><os><type>hvm</type></os><metadata>{metadata}</metadata></domain>"""


def libvirt_calls(size: int, root: pathlib.Path) -> tuple[int, int]:
    """libvirt calls to see all guests: for an agent that starts, and in a later pass."""
    from compute import conf as configuration
    from virt.libvirt.driver import LibvirtDriver

    node = root / f"node-{size}.xml"
    domains = "".join(
        DOMAIN.format(number=n, uuid=uuid.uuid4(), metadata=_metadata()) for n in range(size)
    )
    node.write_text(f"<node>{domains}</node>")
    conf = configuration.CONF
    configuration.register(conf)
    if not conf._args:  # not parsed yet in this process
        conf([], project="magnetar", default_config_files=[])
    conf.set_override("state_path", str(root / f"state-{size}"))
    (root / f"state-{size}").mkdir()
    conf.set_override("connection_uri", f"test://{node}", group="libvirt")
    conf.set_override("virt_type", "qemu", group="libvirt")
    counts = []
    for _ in range(2):  # the first agent on this host learns its guests; the second one starts
        driver = LibvirtDriver(conf, types.SimpleNamespace())
        driver.start(lambda guest, what: None)
        time.sleep(0.5)  # the warm-up in the background is not part of it
        before = driver.calls.total()
        driver.states()
        first = driver.calls.total() - before
        for _ in range(-(-size // 10)):  # noted ownership is confirmed ten at a time
            driver.states()
        before = driver.calls.total()
        driver.states()
        counts = [first, driver.calls.total() - before]
        driver.stop()
    return counts[0], counts[1]


def _metadata() -> str:
    from virt.xml.metadata import OURS

    return f"<m:guest xmlns:m='{OURS}'><m:generation>1</m:generation></m:guest>"


def _counted(engine: sa.Engine, work: Callable[[], object]) -> int:
    count = [0]

    def note(*args: object) -> None:
        count[0] += 1

    sa.event.listen(engine, "before_cursor_execute", note)
    work()
    sa.event.remove(engine, "before_cursor_execute", note)
    return count[0]


def statements(size: int, root: pathlib.Path) -> dict[str, float]:
    """Journal statements, conductor and driver calls, and seconds, at start and in one pass."""
    world = fakes.world(root / f"world-{size}")
    conductor: Any = world.conductor
    driver: Any = world.driver
    prims = [
        fakes.instance(
            host=fakes.HOST, vm_state=states.ACTIVE, task_state=None, power_state=states.RUNNING
        )
        for _ in range(size)
    ]
    state = conductor.read()
    for prim in prims:
        guest = prim["nova_object.data"]["uuid"]
        state["instances"][guest] = prim
        driver._write(guest, {"name": guest, "power_state": states.RUNNING, "ours": True})
        directory = driver.root / guest
        directory.mkdir()
        (directory / "disks.json").write_text("[]")
    conductor._write(state)
    reconciler = Reconciler(Manager(world, 1), {})
    restore_claims(world, reconciler.run_pass())
    conductor.calls.clear()
    driver.calls.clear()
    found: dict[str, float] = {"start": _counted(world.journal.engine, reconciler.resume)}
    began = time.monotonic()
    found["pass"] = _counted(world.journal.engine, reconciler.run_pass)
    found["seconds"] = time.monotonic() - began
    found["conductor"] = len(conductor.calls)
    found["driver"] = sum(driver.calls.values())
    world.journal.engine.dispose()
    return found


def measure() -> list[Figure]:
    """All figures of this file."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="magnetar-bench-") as directory:
        root = pathlib.Path(directory)
        for size in SIZES:
            guests = f"{size:,} guest{'s' if size > 1 else ''}"
            start, later = libvirt_calls(size, root)
            sql = statements(size, root)
            figures += [
                Figure(f"libvirt calls to see {guests}, at start", start, "", "constant"),
                Figure(f"libvirt calls to see {guests}, one pass", later, "", "constant"),
                Figure(
                    f"SQL statements with {guests}, start / pass",
                    sql["pass"],
                    "",
                    "constant",
                    f"at start {sql['start']:g}; conductor calls {sql['conductor']:g}; "
                    f"a pass took {sql['seconds']:.2f} s",
                ),
            ]
    return figures

"""The kill matrix: end the process at every crash point, start again, see the invariants hold.

The points are enumerated from the operations themselves. Each case forks from this warmed process:
a first child is killed by SIGKILL at its point; a second one starts as the agent does and runs
until all is at rest. Journal, hypervisor and control plane are files that outlive the children.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from compute.engine import crashpoints
from compute.engine.operation import Operation
from compute.engine.run import Run, Signals
from compute.engine.runner import Runner
from compute.errors import Failed
from compute.manager import Manager, split_secrets
from compute.model import states
from compute.operations import OPERATIONS
from compute.recovery.invariants import Finding, check
from compute.recovery.observe import observe
from compute.recovery.reconcile import Reconciler, restore_claims
from db.journal import rows
from tests import fakes
from tests.crash import devices, nics, volumes
from tests.waiting import PATIENCE

GUEST = "aaaaaaaa-0000-4000-8000-000000000001"
# Nothing here needs to survive this machine's power.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CONTEXT = {"request_id": "req-1", "roles": ["member"], "auth_token": "token"}
LIMIT = PATIENCE  # seconds to converge


@dataclass(frozen=True)
class Case:
    """One kill, at ``point``.

    ``fail_at`` makes the step there fail first, with ``code``, so that the operation is undone and
    the point lies on the way back. ``again`` is where recovery itself is killed. ``asked`` changes
    the request's arguments. ``tenant_deletes`` asks for the guest's deletion right before the kill,
    and loses the message.
    """

    verb: str
    point: str
    fail_at: str | None = None
    again: str | None = None
    code: str = "made_to_fail"
    asked: tuple[tuple[str, object], ...] = ()
    tenant_deletes: bool = False

    @property
    def id(self) -> str:
        """The case as a test's name."""
        words = [self.point, f"failing-{self.fail_at}" if self.fail_at else "",
                 f"again-{self.again}" if self.again else "",
                 *(f"{name}-{value}" for name, value in self.asked),
                 "tenant-deletes" if self.tenant_deletes else ""]
        return "_".join(w for w in words if w).replace(".", "_").replace("-", "_")


def cases(operation: Operation) -> Iterator[Case]:
    """A kill at each point. Points on the way back need a failure: the last step that can be undone
    fails after its effect; conclusion points need one too."""
    verb = operation.verb
    failing = failing_point(operation)
    for point in operation.crash_points():
        name, moment = point.split(".")[1:]
        back = moment in crashpoints.BACKWARD or name.startswith("conclude-")
        if verb == "unsupported":  # it always fails by itself
            yield Case(verb, point)
        else:
            yield Case(verb, point, failing if back else None, code=_code(verb, name))


def failing_point(operation: Operation) -> str | None:
    """Where a failure makes an operation undo all that it can: after the effect of the last step
    that can be undone; before it, where that effect turns it forward again."""
    undoable = operation.undoable()
    if not undoable:
        return None
    moment = "after_intent" if operation.verb == "swap_volume" else "after_effect"
    return f"{operation.verb}.{undoable[-1].name}.{moment}"


def _code(verb: str, step: str) -> str:
    """A build has a fault written only when trying another host would not help."""
    hopeless = verb == "spawn" and step == "conclude-fault"
    return "image_unacceptable" if hopeless else "made_to_fail"


def doubled(one: Case, operation: Operation) -> Iterator[Case]:
    """The same kill, then another at each point that recovery passes."""
    for point in operation.crash_points():
        yield replace(one, again=point)


PORT = "bbbbbbbb-0000-4000-8000-000000000002"  # of a second NIC
SNAPSHOT_ID, OLD_IDS = "bbbbbbbb-1", ("bbbbbbbb-2", "bbbbbbbb-3")


VOLUME_VERBS = ("reserve_device", "attach_volume", "detach_volume", "extend_volume", "swap_volume",
                "disconnect_volume")
# Verbs before which the guest has a volume.
WITH_VOLUME = ("delete", "reap", "start", "stop", "reboot", "suspend", "resume", "rescue", "shelve",
               "shelve_offload", "unshelve", "soft_delete", "restore", "reclaim", "unrescue",
               "rebuild", "detach_volume", "extend_volume", "swap_volume",
               "disconnect_volume")


# -- the guest before, the request, and what must be afterwards -----------------------------------
PREPARED = {
    "spawn": (states.BUILDING, states.SCHEDULING, {}),
    "delete": (states.ACTIVE, states.DELETING, {"bdms": {}}),
    "start": (states.STOPPED, states.POWERING_ON, {}),
    "stop": (states.ACTIVE, states.POWERING_OFF, {"clean_shutdown": True}),
    "reboot": (states.ACTIVE, states.REBOOTING, {"reboot_type": "SOFT"}),
    "reap": (states.ACTIVE, None, {}),
    "pause": (states.ACTIVE, states.PAUSING, {}),
    "unpause": (states.PAUSED, states.UNPAUSING, {}),
    "suspend": (states.ACTIVE, states.SUSPENDING, {}),
    "resume": (states.SUSPENDED, states.RESUMING, {}),
    "crash_dump": (states.ACTIVE, None, {}),
    "rescue": (states.ACTIVE, states.RESCUING, {"clean_shutdown": True}),
    "unrescue": (states.RESCUED, states.UNRESCUING, {}),
    "set_password": (states.ACTIVE, states.UPDATING_PASSWORD, {"new_pass": "opensesame"}),
    "quiesce": (states.ACTIVE, None, {}),
    "unquiesce": (states.ACTIVE, None, {}),
    "snapshot": (states.ACTIVE, states.IMAGE_SNAPSHOT_PENDING, {"image_id": SNAPSHOT_ID}),
    "backup": (states.STOPPED, states.IMAGE_BACKUP,
               {"image_id": SNAPSHOT_ID, "backup_type": "daily", "rotation": 2}),
    "shelve": (states.ACTIVE, states.SHELVING, {"image_id": SNAPSHOT_ID}),
    "shelve_offload": (states.SHELVED, states.SHELVING_OFFLOADING, {}),
    "unshelve": (states.SHELVED_OFFLOADED, states.UNSHELVING, {"image": {"id": SNAPSHOT_ID}}),
    "rebuild": (states.ACTIVE, states.REBUILDING, {
        "new_pass": "secret", "injected_files": [], "image_ref": fakes.IMAGE_ID,
        "orig_image_ref": fakes.IMAGE_ID, "orig_sys_metadata": {}, "recreate": False,
        "preserve_ephemeral": False}),
    "soft_delete": (states.ACTIVE, states.SOFT_DELETING, {}),
    "restore": (states.SOFT_DELETED, states.RESTORING, {}),
    "reclaim": (states.SOFT_DELETED, None, {}),
    "attach_interface": (states.ACTIVE, None, {
        "network_id": fakes.NETWORK_ID, "port_id": None, "requested_ip": None, "tag": "lan"}),
    "detach_interface": (states.ACTIVE, None, {"port_id": PORT}),
    **{verb: (states.ACTIVE, None, {}) for verb in VOLUME_VERBS},
    "unsupported": (states.ACTIVE, "sharing", {"method": "allow_share"}),
}
DEVICE = "a device that cannot be saved"


_prepared: dict[str, tuple[pathlib.Path, dict]] = {}


def run_now(world, verb: str, args: dict, context: dict = CONTEXT) -> None:
    """Accept and carry out one operation on this thread."""
    guest = args["instance"]["nova_object.data"]["uuid"]
    operation = OPERATIONS[verb]
    public, secret = split_secrets(args, context)
    operation.check(public)
    row, _ = world.journal.accept(verb, guest, context["request_id"], public,
                                  preempts=operation.preempts)
    for part, values in secret.items():
        world.secrets.keep(row.id, part, values)
    Runner(Run(world, operation, row, Signals())).to_end()


def prepare(root: pathlib.Path, verb: str) -> dict:
    """A world in ``root`` with one guest ready for ``verb``; returns the request's arguments.

    Made once for each verb, then copied.
    """
    if verb not in _prepared:
        pattern = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-crash-pattern-", dir=MEMORY))
        atexit.register(_remove, pattern, os.getpid())
        _prepared[verb] = pattern, _prepare(pattern, verb)
    pattern, args = _prepared[verb]
    shutil.copytree(pattern, root, dirs_exist_ok=True)
    return args


def _bring_to(world, vm_state: str) -> None:
    """Put an active guest into a state."""
    if vm_state in (states.STOPPED, states.SOFT_DELETED):
        world.driver.power_off(GUEST)
        world.conductor.set(GUEST, vm_state=vm_state, power_state=states.SHUTDOWN)
    elif vm_state == states.PAUSED:
        world.driver.pause(GUEST)
        world.conductor.set(GUEST, vm_state=vm_state, power_state=states.POWER_PAUSED)
    elif vm_state == states.RESCUED:
        prim = world.conductor.set(GUEST, task_state=states.RESCUING)
        run_now(world, "rescue", {"instance": prim}, {**CONTEXT, "request_id": "req-0"})
    elif vm_state == states.SUSPENDED:
        world.driver.attach(GUEST, DEVICE)
        prim = world.conductor.set(GUEST, task_state=states.SUSPENDING)
        run_now(world, "suspend", {"instance": prim}, {**CONTEXT, "request_id": "req-0"})
    elif vm_state in (states.SHELVED, states.SHELVED_OFFLOADED):
        _shelve(world, vm_state == states.SHELVED_OFFLOADED)


def _describe_images(world) -> None:
    """Two backups from before, and what the guest's disk shall go to."""
    kept = {"instance_uuid": GUEST, "image_type": "backup", "backup_type": "daily"}
    for image in OLD_IDS:
        world.images.reserve(image, **kept)
        world.images.upload({}, image, str(world.driver._dir(GUEST) / "disk"), "qcow2",
                            lambda *_: None, lambda: None)
    world.images.reserve(SNAPSHOT_ID, **kept)


def _shelve(world, offload: bool) -> None:
    """Shelve the guest, and let it leave the host."""
    _describe_images(world)
    world.conf.shelved_offload_time = 0 if offload else -1
    prim = world.conductor.set(GUEST, task_state=states.SHELVING)
    run_now(world, "shelve", {"instance": prim, "image_id": SNAPSHOT_ID},
            {**CONTEXT, "request_id": "req-shelve"})


def _remove(path: pathlib.Path, maker: int) -> None:
    if os.getpid() == maker:
        shutil.rmtree(path, ignore_errors=True)


def _prepare(root: pathlib.Path, verb: str) -> dict:
    world = devices.offer(fakes.world(root))
    vm_state, task, extra = PREPARED[verb]
    prim = fakes.instance(uuid=GUEST, flavor=devices.flavor())
    world.conductor.add(prim)
    if verb == "spawn":
        world.journal.engine.dispose()
        retry = {"retry": {"num_attempts": 1, "hosts": [[fakes.HOST, fakes.HOST]]}}
        return volumes.with_blank(world.conductor, fakes.build_args(prim, filter_properties=retry))
    run_now(world, "spawn", fakes.build_args(prim), {**CONTEXT, "request_id": "req-0"})
    if verb in WITH_VOLUME:
        bdm = volumes.reserve(world, GUEST, delete_on_termination=True)
        run_now(world, "attach_volume", {"instance": world.conductor.instance(CONTEXT, GUEST),
                                         "bdm": bdm}, {**CONTEXT, "request_id": "req-volume"})
    _bring_to(world, vm_state)
    if verb in VOLUME_VERBS:
        extra = volumes.asked(world, verb, GUEST)
    if verb == "suspend":
        world.driver.attach(GUEST, DEVICE)
    if verb == "unquiesce":
        run_now(world, "quiesce", {"instance": world.conductor.set(GUEST)},
                {**CONTEXT, "request_id": "req-quiesce"})
    if verb in ("snapshot", "backup", "shelve"):
        _describe_images(world)
    if verb == "detach_interface":
        nics.add(lambda args: run_now(world, "attach_interface", args, {
            **CONTEXT, "request_id": "req-nic"}), world.conductor.instance(CONTEXT, GUEST), PORT)
    prim = world.conductor.set(GUEST, task_state=task, deleted=verb == "reap")
    world.journal.engine.dispose()
    return {"instance": prim, **extra}


# -- children -------------------------------------------------------------------------------------
def child(work: Callable[[], None]) -> int:
    """Run in a forked process; returns its wait status."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - printed; the exit code tells
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def _armed(root: pathlib.Path, one: Case, kill_at: str | None) -> Callable[[str], None]:
    failed = root / "failed-once"

    def hook(name: str) -> None:
        if name == one.fail_at and not failed.exists():
            failed.touch()
            raise Failed("This step was made to fail.", code=one.code)
        if name == kill_at:
            if one.tenant_deletes:
                fakes.FakeConductor(root / "control.json").set(GUEST, task_state=states.DELETING)
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def first_life(root: pathlib.Path, one: Case, args: dict) -> Callable[[], None]:
    """The process that is killed at the case's point."""
    def work() -> None:
        crashpoints.arm(_armed(root, one, one.point))
        run_now(devices.offer(fakes.world(root)), one.verb, {**args, **dict(one.asked)})
    return work


def next_life(root: pathlib.Path, one: Case, kill_at: str | None = None) -> Callable[[], None]:
    """The process that starts after a kill, as the agent does, until all is at rest."""
    def work() -> None:
        crashpoints.arm(_armed(root, one, kill_at))
        recover(Manager(devices.offer(fakes.world(root)), workers=1), _join)
    return work


def _join(manager: Manager, end: float) -> None:
    while manager.running() and time.monotonic() < end:
        time.sleep(0.002)


def recover(manager: Manager, work: Callable[[Manager, float], None]) -> Reconciler:
    """Do what the agent does from its start on, until all is at rest.

    :param work: carries the manager's operations out, until a time (monotonic seconds).
    """
    reconciler = Reconciler(manager, CONTEXT, lost_after=0)
    reconciler.resume()
    work(manager, time.monotonic() + LIMIT)
    left = [row for row in manager.world.journal.find(active=True)
            if row.state != rows.NEEDS_OPERATOR]
    if left:
        raise AssertionError(f"the start did not resume {left}")
    settle(reconciler, work)
    return reconciler


def settle(reconciler: Reconciler, work: Callable[[Manager, float], None]) -> None:
    """Make passes until all is at rest, or waits for an operator."""
    manager, world = reconciler.manager, reconciler.world
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        work(manager, end)
        seen = reconciler.run_pass()
        if manager.running():
            continue
        restore_claims(world, seen)
        left = world.journal.find(active=True)
        if all(row.state == rows.NEEDS_OPERATOR for row in left):
            return
    raise AssertionError(f"not at rest after {LIMIT} s: {world.journal.find(active=True)}")


# -- one case -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Outcome:
    """What a case ended with."""

    killed: bool
    findings: list[Finding]
    ended: list[str]
    fields: dict
    seconds: float
    secrets_left: list[str]
    claims: set[str]
    domains: int
    ports: list[str]
    quarantined: list[str]
    violations: list[str]
    devices: list[str]
    frozen: bool  # its file systems stand still
    disks: set[str]  # the domain's, and what is there of a rescue system
    images: dict[str, str]
    copies: list[str]
    nics: dict[str, set[str]]
    volumes: volumes.Seen
    killed_again: bool = False


def run(one: Case) -> Outcome:
    """Carry out one case from nothing to rest."""
    with room() as root:
        args = prepare(root, one.verb)
        status = child(first_life(root, one, args))
        killed = os.WIFSIGNALED(status)
        if not killed and status != 0:
            raise AssertionError(f"{one.id}: the first process failed")
        again = False
        began = time.monotonic()
        if one.again:
            again = os.WIFSIGNALED(child(next_life(root, one, kill_at=one.again)))
        if child(next_life(root, one)) != 0:
            raise AssertionError(f"{one.id}: recovery failed")
        seconds = time.monotonic() - began
        return outcome(root, killed=killed, killed_again=again, seconds=seconds)


@contextlib.contextmanager
def room() -> Iterator[pathlib.Path]:
    """A directory for one case, removed afterwards."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="magnetar-crash-", dir=MEMORY))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def outcome(root: pathlib.Path, *, killed: bool, killed_again: bool = False,
            seconds: float = 0) -> Outcome:
    """What is found in a case's directory."""
    world = devices.offer(fakes.world(root))
    operations = world.journal.find()
    fields = world.conductor.fields(GUEST)
    quarantine = root / "instances" / "_quarantine"
    made = Outcome(
        killed=killed, findings=check(observe(world, CONTEXT)),
        ended=[r.state for r in operations if r.state in rows.ENDED], fields=fields,
        seconds=seconds, secrets_left=[p.name for p in (root / "secrets").iterdir()],
        claims={c.kind for c in world.journal.claims()},
        domains=len(world.driver.states()), ports=[p.name for p in (root / "ports").iterdir()],
        quarantined=[p.name for p in quarantine.iterdir()] if quarantine.exists() else [],
        violations=world.driver.fabric.violations() + devices.wrong(world, GUEST),
        frozen=(world.driver._read(GUEST) or {}).get("frozen", False),
        devices=(world.driver._read(GUEST) or {}).get("devices", []), disks=_disks(world),
        images={image: kept["status"] for image, kept in world.images.all().items()},
        copies=[p.name for p in (*world.driver._dir(GUEST).glob("disk.cop*"),
                                 *world.driver.place.glob("*_resize"))],
        nics=nics.macs(world, GUEST, CONTEXT), volumes=volumes.seen(world, GUEST),
        killed_again=killed_again)
    world.journal.engine.dispose()
    return made


def _disks(world) -> set[str]:
    files = world.driver.place / GUEST
    return {*(world.driver._read(GUEST) or {}).get("disks", ()),
            *(path.name for path in files.glob("*.rescue"))}


# -- what must be so ------------------------------------------------------------------------------
# vm_states of an existing guest after a verb was done, and after it was undone
DONE = {"spawn": (states.ACTIVE,), "start": (states.ACTIVE,), "stop": (states.STOPPED,),
        "reboot": (states.ACTIVE,), "unsupported": (states.ACTIVE,),
        "pause": (states.PAUSED,), "unpause": (states.ACTIVE,), "suspend": (states.SUSPENDED,),
        "resume": (states.ACTIVE,), "crash_dump": (states.ACTIVE,),
        "rescue": (states.RESCUED,), "unrescue": (states.ACTIVE,),
        "set_password": (states.ACTIVE,), "quiesce": (states.ACTIVE,),
        "unquiesce": (states.ACTIVE,),
        "snapshot": (states.ACTIVE,), "backup": (states.STOPPED,),
        "rebuild": (states.ACTIVE,), "shelve": (states.SHELVED_OFFLOADED,),
        "shelve_offload": (states.SHELVED_OFFLOADED,), "unshelve": (states.ACTIVE,),
        "soft_delete": (states.SOFT_DELETED,),
        "restore": (states.ACTIVE,), "attach_interface": (states.ACTIVE,),
        "detach_interface": (states.ACTIVE,), **dict.fromkeys(VOLUME_VERBS, (states.ACTIVE,))}
UNDONE = {"start": (states.STOPPED,), "stop": (states.ACTIVE, states.STOPPED),
          "reboot": (states.ACTIVE, states.ERROR, states.STOPPED),
          "unsupported": (states.ACTIVE,), "spawn": (), "pause": (states.ACTIVE,),
          "unpause": (states.PAUSED,), "suspend": (states.ACTIVE,),
          "resume": (states.SUSPENDED,), "crash_dump": (states.ACTIVE,),
          "rescue": (states.ACTIVE,), "unrescue": (states.RESCUED,),
          "set_password": (states.ACTIVE,), "quiesce": (states.ACTIVE,),
          "unquiesce": (states.ACTIVE,),
          "snapshot": (states.ACTIVE,),
          "backup": (states.STOPPED,), "rebuild": (states.ACTIVE,),
          "shelve": (states.ACTIVE,), "shelve_offload": (states.SHELVED,),
          "unshelve": (states.SHELVED_OFFLOADED,),
          "soft_delete": (states.ACTIVE, states.STOPPED),
          "restore": (states.SOFT_DELETED,), "reclaim": (states.SOFT_DELETED,),
          "attach_interface": (states.ACTIVE,), "detach_interface": (states.ACTIVE,),
          **dict.fromkeys(VOLUME_VERBS, (states.ACTIVE,))}
KINDS = {"resources", "ports", "disks", "domain"}


def _images(found: Outcome) -> list[str]:
    """A new image is whole or not there, and an older backup only goes when the new one is."""
    made = [f"image {image} is {status}" for image, status in found.images.items()
            if status != "active"]
    made += [f"left of a copy: {name}" for name in found.copies]
    if found.images and len(found.images) < 2:
        made.append(f"of the backups {list(found.images)} are left")
    return made


def _offloaded(found: Outcome, expected: tuple[str, ...]) -> list[str]:
    """A guest that is only an image any more."""
    fields, made = found.fields, []
    left = (found.domains, sorted(found.claims), fields["host"], fields["task_state"])
    if left != (0, [], None, None) or fields["vm_state"] not in expected:
        made.append(f"it is offloaded, and left are {left}")
    if SNAPSHOT_ID not in found.images:
        made.append("its image is gone")
    return made


def problems(verb: str, found: Outcome, expected: tuple[str, ...]) -> list[str]:
    """All that is not as it must be after a verb.

    :param expected: vm_states that the guest may have if it is on this host.
    """
    fields = found.fields
    made = [f"{f.rule}: {f.what}" for f in found.findings]
    made += [f"secrets left: {name}" for name in found.secrets_left] + found.violations
    made += _images(found) + volumes.problems(verb, found.volumes, fields)
    asleep = fields["vm_state"] == states.SUSPENDED
    kinds = KINDS | {"unplugged"} if asleep else KINDS
    kinds = kinds | {"frozen"} if found.frozen else kinds
    kinds = kinds | found.volumes.kinds
    if verb in ("suspend", "resume") and asleep == (DEVICE in found.devices):
        made.append(f"it is {fields['vm_state']}, with devices {found.devices}")
    gone = verb in ("delete", "reap") or verb == "reclaim" and fields["deleted"]
    rescued = fields["vm_state"] == states.RESCUED
    if not gone and rescued != ("disk.rescue" in found.disks):
        made.append(f"it is {fields['vm_state']}, with disks {found.disks}")
    if gone and not fields["deleted"]:
        made.append("the control plane does not have it as deleted")
    if fields["vm_state"] == states.SHELVED_OFFLOADED and not gone:
        made += _offloaded(found, expected)
    elif gone or fields["host"] is None:  # deleted, or a build that was handed back
        if found.domains or found.ports or found.claims:
            made.append(f"left: {found.domains} domains, ports {found.ports}, {found.claims}")
    elif (found.domains, len(found.ports), found.claims) != (1, 1, kinds):
        made.append(f"{found.domains} domains, ports {found.ports}, claims {found.claims}")
    elif len({frozenset(macs) for macs in found.nics.values()}) > 1:
        made.append(f"NICs: {found.nics}")
    elif fields["vm_state"] not in expected or fields["task_state"] is not None:
        made.append(f"vm_state {fields['vm_state']}, task {fields['task_state']}: "
                    f"expected {expected}")
    if len(found.quarantined) != (verb == "reap"):
        made.append(f"quarantined: {found.quarantined}")
    return made

"""image, copy, upload, record, rotation, tidy: a guest's root disk becomes an image.

The copy of a running guest is made by a block job that follows its writes and never holds them up;
the definition stays as it is, so that a guest which goes off meanwhile is the same guest. Nothing
is made of the memory, saved or not. The copy lies in the guest's own directory under one name, so
that there is never more than one and it goes away with the guest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Probe, Step
from compute.errors import Failed, MagnetarError, Refused, Retryable
from compute.model import states
from compute.model.guest import Disk, Image
from compute.steps.disks import Progress
from compute.steps.inside import FROZEN, let_go, need_running
from compute.steps.record import FOR_EVER, Record, publish
from compute.steps.sleep import is_awake

LOG = logging.getLogger(__name__)
SNAPSHOT: list[str | None] = [states.IMAGE_SNAPSHOT_PENDING, states.IMAGE_SNAPSHOT,
                              states.IMAGE_PENDING_UPLOAD, states.IMAGE_UPLOADING]
BACKUP: list[str | None] = [states.IMAGE_BACKUP, *SNAPSHOT[2:]]
OWNER = "instance_uuid"  # Nova's property of an image: whose disk it is
QUEUED, ACTIVE = "queued", "active"


class Reserved(Step):
    """image: the API described it; it is still empty, and ours to fill.

    It comes first, so that an image for which nobody waits any more is removed as well. A request
    whose message was lost does not name it; then it is the newest one that waits for this guest.
    """

    name = "image"
    attempts = FOR_EVER

    def before(self, run: Run) -> Mapping[str, Any]:
        return {"image": run.request["args"].get("image_id") or self.found(run)}

    @staticmethod
    def found(run: Run) -> str | None:
        images = run.world.images.find(run.context, {OWNER: run.row.guest})
        return next((image.id for image in images if image.status == QUEUED), None)

    def do(self, run: Run) -> str:
        image = run.request["args"].get("image_id") or self.found(run)
        status = run.world.images.status(run.context, image) if image else None
        if image is None or status is None:
            raise Refused(f"The image for the copy of guest {run.row.guest} is not there"
                          + (f": {image}." if image else "."), now="The guest was not touched.",
                          next="Ask for a new one.", code="image_not_found")
        if status != QUEUED:
            raise Refused(f"Image {image} is {status} already, and an image never changes.",
                          now="Neither it nor the guest was touched.", next="Ask for a new one.",
                          code="image_exists")
        return image

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        image = data.get("image")
        if image and run.world.images.status(run.context, image) == QUEUED:
            run.world.images.remove(run.context, image)


class Unfilled(Step):
    """unfilled: an image that this operation never came to, because it was told to stop before its
    first step, is not left waiting for it."""

    name = "unfilled"
    attempts = FOR_EVER

    def do(self, run: Run) -> None:
        image = run.request["args"].get("image_id")
        if image and run.world.images.status(run.context, image) == QUEUED:
            run.world.images.remove(run.context, image)


class Copy(Step):
    """copy: the root disk as it was at one moment, in a file of its own.

    :param first: the task that says that it is being made; None: the one that is there says it.
    :param tasks: those that the operation runs under.
    """

    name = "copy"

    def __init__(self, tasks: list[str | None], first: str | None, then: str):
        self.tasks, self.first, self.then = tasks, first, then

    def probe(self, run: Run) -> Probe:
        return Probe.YES if run.world.driver.copied(run.row.guest) else Probe.NO

    def do(self, run: Run) -> None:
        if self.first:
            publish(run, {"task_state": self.first}, self.tasks)
        if is_awake(run):
            self.live(run)
        else:
            run.world.driver.copy_off(run.row.guest, Progress(run, "disk"), run.check)
        publish(run, {"task_state": self.then}, self.tasks)

    def live(self, run: Run) -> None:
        """Wait until the copy is level with the disk. One that an earlier life began goes on."""
        driver, guest, progress = run.world.driver, run.row.guest, Progress(run, "disk")
        seconds = float(run.world.conf.timeouts.snapshot)

        def over() -> bool:
            state = driver.copy_state(guest)
            if state is not None:
                progress(state.done, state.total)
            return state is None or state.level

        driver.begin_copy(guest)
        if not run.wait(over, seconds):
            raise Failed(f"The copy of the disk of guest {guest} was not level with it within "
                         f"{seconds:g} s: the guest writes too much, or the disk is too slow.",
                         next="Ask for it while the guest is quieter, or stopped; [timeouts] "
                              "snapshot is the limit.", code="copy_too_slow")
        if not is_awake(run):
            raise Retryable(f"Guest {guest} went off while its disk was copied.",
                            next="It is copied as it is now.", code="copy_lost")
        stand_still(run)
        driver.finish_copy(guest)
        go_on(run)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        go_on(run)
        run.world.driver.discard_copy(run.row.guest)


def shaped(run: Run) -> Disk | None:
    """The copy, in the format that images are to have on this host; None: there is none."""
    options, driver, guest = run.world.conf.libvirt, run.world.driver, run.row.guest
    copy = driver.copied(guest)
    if copy is None:
        return None
    wanted = options.snapshot_image_format or copy.format
    compress = options.snapshot_compression and wanted == "qcow2"
    if wanted != copy.format or compress:
        run.say(f"the copy becomes {wanted}{' with compression' if compress else ''}")
        driver.shape_copy(guest, wanted, compress, run.check)
        copy = driver.copied(guest)
    return copy


def stand_still(run: Run) -> None:
    """Have the guest's file systems stand still for the moment that the copy is of, if its image
    says that it has an agent. The claim tells that they do.

    :raises MagnetarError: they cannot, and the image says os_require_quiesce.
    """
    guest, journal = run.guest, run.world.journal
    required = truth(guest.prop("os_require_quiesce"))
    if not (required or truth(guest.prop("hw_qemu_guest_agent"))) \
            or journal.claims(kind=FROZEN, guest=guest.uuid):  # somebody had them stand still
        return
    journal.claim(FROZEN, guest.uuid, guest.uuid, run.row.id, {})
    try:
        need_running(run)
        run.world.driver.freeze(guest.uuid)
    except MagnetarError as error:
        if error.code in ("not_running", "agent_missing"):
            journal.release(guest=guest.uuid, kind=FROZEN)
        go_on(run)
        if required:
            raise
        run.say(f"the file systems are copied as they are: {error.what}")


def go_on(run: Run) -> None:
    """Let file systems go on that this operation had stand still. An agent that does not answer now
    is asked again later, as long as the claim is there."""
    claims = run.world.journal.claims(kind=FROZEN, guest=run.row.guest)
    if any(claim.operation == run.row.id for claim in claims):
        try:
            let_go(run)
        except MagnetarError as error:
            LOG.warning("The file systems of guest %s may stand still: %s", run.row.guest, error)


def truth(text: str | None) -> bool:
    """Whether an image's property says yes."""
    return str(text).lower() in ("yes", "true", "1", "on")


class Upload(Step):
    """upload: the image gets its bytes and is active. From then on it is somebody's: the operation
    only goes forward, and until then an abort is heeded between any two MiB."""

    name = "upload"
    decides = True

    def __init__(self, tasks: list[str | None], during: str):
        self.tasks, self.during = tasks, during

    def probe(self, run: Run) -> Probe:
        status = run.world.images.status(run.context, run.outcome("image"))
        return Probe.YES if status == ACTIVE else Probe.NO

    def do(self, run: Run) -> None:
        go_on(run)  # of an agent that was killed meanwhile
        run.check()
        publish(run, {"task_state": self.during}, self.tasks)
        copy = shaped(run)
        if copy is None:
            raise Failed(f"The copy of the disk of guest {run.row.guest} is not there any more.",
                         next="Ask for it again.", code="copy_lost")
        run.world.images.upload(run.context, run.outcome("image"), copy.path, copy.format,
                                Progress(run, "disk"), run.check)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        run.world.images.remove(run.context, run.outcome("image"))


class Snapped(Record):
    """record: no task any more; the guest is what it was."""

    def __init__(self, tasks: list[str | None]):
        super().__init__("", tasks)

    def do(self, run: Run) -> dict[str, Any]:
        found = run.world.driver.state(run.row.guest)
        power = found.power_state if found else states.NOSTATE
        return {"published": publish(run, {"task_state": None, "power_state": power},
                                     self.expected)}


class Rotate(Step):
    """rotation: of a guest's backups of one type the newest stay, as many as were asked for."""

    name = "rotation"

    def do(self, run: Run) -> dict[str, Any]:
        args = run.request["args"]
        if args.get("rotation") is None:  # its message was lost, and with it how many
            return {"removed": []}
        found = run.world.images.find(run.context, {
            OWNER: run.row.guest, "image_type": "backup", "backup_type": args["backup_type"]})
        old = [image.id for image in filter(_whole, found)][args["rotation"]:]
        for image in old:
            run.world.images.remove(run.context, image)
        return {"removed": old}


def _whole(image: Image) -> bool:
    return image.status == ACTIVE


class Tidy(Step):
    """tidy: the copy beside the disk is not needed any more."""

    name = "tidy"

    def do(self, run: Run) -> None:
        run.world.driver.discard_copy(run.row.guest)

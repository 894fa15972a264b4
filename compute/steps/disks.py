"""image, disks: the base in the cache, and the guest's own disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from compute.engine.run import Run
from compute.engine.step import Step
from compute.errors import Failed
from compute.model.guest import CachedImage, Guest
from compute.steps.attached import boots_from_volume, claimed
from compute.steps.claim import devices_of, placement_of
from compute.steps.ports import nics_of


class Image(Step):
    """Bring the image into the cache, inspected, and check that it fits the flavor.

    Nothing to undo: the cache ages by itself.
    """

    name = "image"

    def do(self, run: Run) -> dict[str, Any] | None:
        image = run.guest.image
        if boots_from_volume(run):
            return None
        if image is None:
            raise Failed(f"Guest {run.row.guest} has no image, and no volume to boot from.",
                         next="Create it from an image or a volume.",
                         code="image_unacceptable")
        if image.disk_format == "iso":
            raise Failed(f"Image {image.id} is an ISO image, from which no disk can be made.",
                         now="No disk was made.", code="image_unacceptable",
                         next="Rescue a guest with it, or upload a disk image.")
        driver = run.world.driver
        base = driver.cached_image(image)
        if base is None:
            base = driver.fetch_image(image, run.world.images, Progress(run), run.check)
        driver.check_image(run.guest, base)
        return asdict(base)


class Progress:
    """Says how far the copying of ``what`` is, at most once a second."""

    def __init__(self, run: Run, what: str = "image"):
        self.run, self.what, self.said = run, what, 0.0

    def __call__(self, done: int, total: int) -> None:
        now = self.run.world.clock.now()
        if now - self.said >= 1:
            self.said = now
            of = f" of {total >> 20} MiB" if total else ""
            self.run.say(f"{self.what}: {done >> 20} MiB{of}")


class Disks(Step):
    """Create the guest's disks and config drive."""

    name = "disks"

    def claims(self, run: Run) -> list:
        return [("disks", run.row.guest, {})]

    def do(self, run: Run) -> int:
        base, image = run.outcome("image"), run.guest.image
        if base and image and run.resumed and run.world.driver.cached_image(image) is None:
            base = Image().do(run)  # it left the cache while the agent was down
        secrets = run.world.secrets.load(run.row.id, "guest")
        disks = run.world.driver.create_disks(
            with_nics(run), CachedImage(**base) if base else None, secrets)
        return len(disks)

    def undo(self, run: Run, data: Mapping[str, Any]) -> None:
        remove_disks(run)


class DisksPresent(Step):
    """Make sure that the guest's disks are on this host before anything is started."""

    name = "disks"

    def do(self, run: Run) -> int:
        found = run.world.driver.disks(run.row.guest)
        if not any(disk.role == "root" for disk in found) and not boots_from_volume(run):
            raise Failed(f"Guest {run.row.guest} has no root disk on this host.",
                         now="Nothing was changed.",
                         next=f"See 'magnetar explain {run.row.guest}' for where they may be.",
                         code="disks_missing")
        return len(found)


class DisksGone(Step):
    """Delete the guest's disks. Reached only for a guest of ours whose delete was asked for."""

    name = "disks"

    def do(self, run: Run) -> None:
        remove_disks(run)


def remove_disks(run: Run) -> None:
    """Delete disks that are claimed by us; disks without a claim go to quarantine."""
    journal, driver, uuid = run.world.journal, run.world.driver, run.row.guest
    if journal.claims(kind="disks", guest=uuid):
        driver.delete_disks(uuid)
    elif uuid in driver.guest_dirs():
        driver.quarantine_disks(uuid)
    journal.release(guest=uuid, kind="disks")


def with_nics(run: Run) -> Guest:
    """The guest with the NICs that this operation allocated, its volumes, and its place on this
    host."""
    return replace(run.guest, nics=nics_of(run), placement=placement_of(run, run.guest),
                   devices=devices_of(run, run.guest),
                   volumes=tuple(one for one in claimed(run) if one.source))

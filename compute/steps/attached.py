"""What the steps of volumes have in common: which volumes a guest has on this host.

The journal's claim ``volumes`` lists all that are connected here for a guest, or on their way to be
or not to be. What is secret of a connection is only in the control plane's block device mappings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from compute.engine.run import Run
from compute.errors import Refused
from compute.model import mappings, states
from compute.model.guest import Guest
from compute.model.volume import Attached, Volume
from compute.rpc.primitives import Primitive
from compute.rpc.primitives import data as fields_of

KIND = "volumes"
ON = (states.RUNNING, states.POWER_PAUSED)


def claimed(run: Run) -> tuple[Attached, ...]:
    """The guest's volumes, as the journal has them."""
    return tuple(Attached.from_plain(plain)
                 for claim in run.world.journal.claims(kind=KIND, guest=run.row.guest)
                 for plain in claim.data.get("volumes", ()))


def plain(volumes: Iterable[Attached]) -> dict[str, Any]:
    """Data of the claim of these volumes."""
    return {"volumes": [one.to_plain() for one in volumes]}


def claim(run: Run, volumes: Iterable[Attached]) -> None:
    """Write down which volumes the guest has here."""
    content = plain(volumes)
    if content["volumes"]:
        run.world.journal.claim(KIND, run.row.guest, run.row.guest, run.row.id, content)
    else:
        run.world.journal.release(guest=run.row.guest, kind=KIND)


def others(run: Run, *volumes: str) -> list[Attached]:
    """The guest's volumes without those of these ids."""
    return [one for one in claimed(run) if one.volume.id not in volumes]


def mapped(run: Run) -> dict[str, Primitive]:
    """The control plane's mappings of the guest's volumes, by volume id."""
    return {fields_of(prim).get("volume_id") or fields_of(prim)["uuid"]: prim
            for prim in mappings.of_volumes(run.world.conductor.bdms(run.context, run.row.guest))}


def mapping(run: Run, volume_id: str) -> Primitive | None:
    """The control plane's mapping of one volume of the guest."""
    return mapped(run).get(volume_id)


def whole(volume: Volume, prim: Primitive | None) -> Volume:
    """A volume with its connection as the control plane has it: secrets included."""
    fields = fields_of(prim)
    known = mappings.connection_of(fields)
    ours = (fields.get("attachment_id") or "") == volume.attachment_id  # else another host's
    return replace(volume, connection=known) if known and ours else volume


def granted(run: Run, volume: Volume) -> Volume:
    """Have the volume service let this host reach a volume, by its attachment; the volume with its
    connection. Asked again it says the same, secrets included."""
    told = run.world.volumes.attachment_update(
        run.context, volume.attachment_id, run.world.driver.volume_connector(),
        mappings.DEVICES + volume.target)
    return replace(volume, connection={**told, "serial": volume.id})


def save_mapping(run: Run, prim: Primitive | None, changes: Mapping[str, Any]) -> None:
    """Change a mapping; one that is gone meanwhile is not missed."""
    if prim is None:
        return
    try:
        run.world.conductor.save_bdm(run.context, prim, changes)
    except Refused as error:
        if error.code != "mapping_not_found":
            raise


def reconnected(run: Run) -> tuple[Attached, ...]:
    """The guest's volumes, each connected to this host (again): what it is defined with. A guest
    that is off sees each under its own id at the next start."""
    held = claimed(run)
    if not held:
        return ()
    known, state = mapped(run), run.world.driver.state(run.row.guest)
    off = state is None or state.power_state not in ON
    made = []
    for one in held:
        volume = whole(one.volume, known.get(one.volume.id))
        if off:
            volume = replace(volume, serial="")
        made.append(Attached(volume, run.world.driver.connect_volume(volume, run.row.guest)))
    if [one.to_plain() for one in made] != [one.to_plain() for one in held]:
        claim(run, made)
    return tuple(made)


def with_volumes(run: Run) -> Guest:
    """The guest with the volumes that are connected for it."""
    return replace(run.guest, volumes=tuple(one for one in claimed(run) if one.source))


def boots_from_volume(run: Run) -> bool:
    """Whether the guest has no root disk of its own."""
    return any(one.volume.boots for one in claimed(run))

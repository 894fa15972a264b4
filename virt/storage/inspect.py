"""Decides, before anything opens an image, whether it is what it claims to be and safe to use.

Images are hostile input. QEMU would follow a backing file or an external data file of a header to
any file of the host, so such headers are refused, and so is a file that looks like another format
than the declared one. What passes is never probed again: its format is written down.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from compute import concurrency
from compute.errors import Failed
from compute.model.guest import Image
from virt.storage import files

ACCEPTED = ("qcow2", "raw", "iso")  # an ISO image only as a rescue system
SECTOR = 512
_REASONS = {
    "backing_file": "it has a backing file, which could be any file of this host",
    "data_file": "it has an external data file, which could be any file of this host",
    "unknown_features": "it uses qcow2 features that are not supported",
}


@dataclass(frozen=True)
class Inspected:
    """What an image file is; ``virtual_size`` in bytes, a multiple of 512."""

    format: str
    virtual_size: int


def unacceptable(image_id: str, reason: str) -> Failed:
    """The error for an image that cannot be used, code ``image_unacceptable``."""
    return Failed(
        f"Image {image_id} cannot be used: {reason}.",
        now="No disk was made from it and nothing of it is kept in the cache.",
        next="Upload the image again as plain qcow2 or raw, with the disk_format that it has.",
        code="image_unacceptable",
    )


def check_declared(image: Image) -> None:
    """Refuse what can be refused before the download.

    :raises Failed: code ``image_unacceptable``.
    """
    if image.disk_format not in ACCEPTED:
        raise unacceptable(
            image.id,
            f"its disk_format is {image.disk_format or 'not set'}, and only "
            f"{', '.join(ACCEPTED)} are supported",
        )
    if image.container_format not in ("", "bare"):
        raise unacceptable(
            image.id, f"its container_format is {image.container_format} and not bare"
        )


def inspect(path: str, image: Image) -> Inspected:
    """Read a downloaded file's headers and compare them with the image's declared format.

    :raises Failed: code ``image_unacceptable``.
    :raises OSError:
    """
    declared = image.disk_format
    file_size = os.stat(path).st_size
    if file_size == 0:
        raise unacceptable(image.id, "it holds no bytes")
    if image.size and image.size != file_size:
        raise unacceptable(image.id, f"it has {file_size} bytes instead of {image.size}")
    found = concurrency.native(_detect, path)
    if declared == "raw":
        # A partition table is what a raw disk should have, and no header that QEMU would read.
        if set(found) - {"gpt"}:
            raise _mismatch(image, found)
        return Inspected("raw", _round_up(file_size))
    if declared == "iso":
        # Hybrid ones have partition tables as well. Read as raw, so nothing else of it counts.
        if "iso" not in found or set(found) - {"iso", "gpt"}:
            raise _mismatch(image, found)
        return Inspected("raw", _round_up(file_size))
    if list(found) != [declared]:
        raise _mismatch(image, found)
    inspector = found[declared]
    _check_safety(inspector, image)
    if not 0 < inspector.virtual_size <= 2**63 - SECTOR:
        raise unacceptable(image.id, f"its header tells a size of {inspector.virtual_size} bytes")
    return Inspected(declared, _round_up(inspector.virtual_size))


def check_info(info: dict[str, Any], inspected: Inspected, image: Image) -> None:
    """Compare our own reading with qemu-img's, which reads more of the header.

    :param info: output of ``qemu-img info --output=json -f FORMAT``.
    :raises Failed: code ``image_unacceptable``.
    """
    details = info.get("format-specific", {}).get("data", {})
    if info.get("backing-filename") or info.get("full-backing-filename"):
        raise unacceptable(image.id, _REASONS["backing_file"])
    if details.get("data-file"):
        raise unacceptable(image.id, _REASONS["data_file"])
    if info.get("encrypted"):
        raise unacceptable(image.id, "it is encrypted, and nothing on this host has its key")
    if details.get("corrupt"):
        raise unacceptable(image.id, "its header is marked as corrupt")
    if _round_up(info.get("virtual-size", 0)) != inspected.virtual_size:
        raise unacceptable(image.id, "its header can be read in two ways, with different sizes")


def verify_hash(path: str, image: Image, cancel: Callable[[], None]) -> None:
    """Compare the file with the image's hash, if it has one.

    :raises Failed: code ``image_unacceptable``.
    :raises OSError:
    """
    if not (image.hash_algo and image.hash_value):
        return
    if image.hash_algo not in hashlib.algorithms_guaranteed or "shake" in image.hash_algo:
        raise unacceptable(image.id, f"its hash is made by {image.hash_algo}, which is not known")
    digest = hashlib.new(image.hash_algo, usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := concurrency.native(_read_into, file, digest):
            del chunk
            cancel()
    if digest.hexdigest() != image.hash_value.lower():
        raise unacceptable(image.id, f"its {image.hash_algo} is not the one that was recorded")


def _read_into(file: Any, digest: Any) -> int:
    chunk = file.read(files.CHUNK)
    digest.update(chunk)
    return len(chunk)


def _round_up(size: int) -> int:
    return -(-size // SECTOR) * SECTOR


def _inspector() -> ModuleType:
    """oslo.utils's inspector. Loaded when first needed: it brings 13 MB of cryptography along."""
    try:
        from oslo_utils.imageutils import format_inspector
    except ImportError as error:
        raise Failed(
            f"Images cannot be inspected on this host: {error}.",
            now="The image was not used.",
            next="Install oslo.utils with its extra: pip install 'oslo.utils[image-inspection]'.",
            code="inspection_unavailable",
        ) from error
    return format_inspector


def _detect(path: str) -> dict[str, Any]:
    """All formats that the file looks like, raw not counted: {name: inspector}."""
    format_inspector = _inspector()
    with open(path, "rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        try:
            while wrapper.formats is None and wrapper.read(64 * 1024):
                pass
        finally:
            wrapper.close()
        return {str(found): found for found in wrapper.formats or () if str(found) != "raw"}


def _check_safety(inspector: Any, image: Image) -> None:
    format_inspector = _inspector()
    try:
        inspector.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = (_REASONS.get(name, f"the check {name} failed") for name in error.failures)
        raise unacceptable(image.id, "; ".join(sorted(reasons))) from error
    except format_inspector.ImageFormatError as error:
        raise unacceptable(image.id, f"its header cannot be read ({error})") from error


def _mismatch(image: Image, found: dict[str, Any]) -> Failed:
    looks = " and ".join(sorted(found)) or "no known format"
    return unacceptable(
        image.id, f"it is declared as {image.disk_format} but looks like {looks}"
    )

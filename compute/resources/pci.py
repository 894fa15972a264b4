"""Which PCI devices of this host guests may have, and the choice of them for one guest.

``[pci] device_spec`` and ``[pci] alias`` are Nova's JSON. Everything here is a pure function of
options, devices and what others hold; :mod:`compute.resources.places` keeps the claims.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from compute.errors import Failed
from compute.model.numa import HostCell
from compute.model.pci import (
    KINDS,
    LEGACY,
    PF,
    POLICIES,
    PREFERRED,
    SOCKET,
    Given,
    HostDevice,
)

ANY = "[0-9a-f]+"
PARTS = re.compile(r"(?:([0-9a-f]{1,4}|\*)?:)?([0-9a-f]{1,2}|\*):([0-9a-f]{1,2}|\*)\.([0-7]|\*)")
WIDTHS = {"domain": 4, "bus": 2, "slot": 2, "function": 1}
TAGS = ("physical_network", "trusted")
SPEC_KEYS = {"vendor_id", "product_id", "address", "managed", *TAGS}
ALIAS_KEYS = {"name", "vendor_id", "product_id", "device_type", "numa_policy", "capability_type"}


class NoDevice(Exception):
    """The guest gets no device; the text says which and why."""


@dataclass(frozen=True)
class Spec:
    """One device_spec. ``address`` is a pattern for a whole address, None for any."""

    vendor: str = "*"
    product: str = "*"
    address: re.Pattern | None = None
    managed: bool = True
    tags: tuple[tuple[str, str], ...] = ()

    def offers(self, device: HostDevice) -> bool:
        """Whether guests may have this device."""
        where = self.address
        return self.vendor in ("*", device.vendor) and self.product in ("*", device.product) and (
            where is None or bool(where.fullmatch(device.address))
            or bool(device.parent and where.fullmatch(device.parent)))


@dataclass(frozen=True)
class Alias:
    """One device that a name stands for; the ids None for any."""

    vendor: str | None = None
    product: str | None = None
    kind: str | None = None
    policy: str | None = None

    def takes(self, device: HostDevice) -> bool:
        """Whether a device is one. A physical function is only where it is asked for by kind: it
        takes all its virtual functions along."""
        return self.vendor in (None, device.vendor) and self.product in (None, device.product) \
            and (device.kind != PF if self.kind is None else device.kind == self.kind)

    @property
    def words(self) -> str:
        """What it is, for people."""
        ids = f"{self.vendor or '*'}:{self.product or '*'}"
        return f"{ids} {self.kind}" if self.kind else ids


@dataclass(frozen=True)
class Offer:
    """A device that guests may have."""

    device: HostDevice
    spec: Spec


@dataclass(frozen=True)
class Request:
    """``count`` devices of one alias. ``policy`` goes before the alias's own."""

    name: str
    count: int
    aliases: tuple[Alias, ...]
    policy: str | None = None

    def takes(self, device: HostDevice, cells: Nearness | None) -> bool:
        """Whether a device would do for a guest on these cells (None: it has no cells)."""
        return any(alias.takes(device) and (
            cells is None or cells.near(device, self.policy or alias.policy or LEGACY))
            for alias in self.aliases)  # fmt: skip


@dataclass(frozen=True)
class Nearness:
    """The host cells that a guest is on; ``around`` also has the others of their sockets."""

    cells: frozenset[int]
    around: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def of(cls, chosen: Iterable[int], cells: Iterable[HostCell]) -> Nearness:
        """Of a guest on ``chosen`` cells of a host with ``cells``."""
        mine, cells = frozenset(chosen), tuple(cells)
        sockets = {cell.socket for cell in cells if cell.id in mine} - {None}
        return cls(mine, mine | {cell.id for cell in cells if cell.socket in sockets})

    def near(self, device: HostDevice, policy: str) -> bool:
        """Whether a policy allows the device."""
        if policy == PREFERRED or (policy == LEGACY and device.cell is None):
            return True
        return device.cell in (self.around if policy == SOCKET else self.cells)


# -- options ------------------------------------------------------------------------------------
def specs(options: Any) -> tuple[Spec, ...]:
    """All of [pci] device_spec. Raises Failed(code='bad_option') naming the one that is wrong."""
    return _specs(tuple(options.device_spec))


def aliases(options: Any) -> Mapping[str, tuple[Alias, ...]]:
    """All of [pci] alias, by name. Raises Failed(code='bad_option')."""
    return _aliases(tuple(options.alias))


@functools.lru_cache(maxsize=64)
def _specs(texts: tuple[str, ...]) -> tuple[Spec, ...]:
    return tuple(_spec(told, text) for text in texts for told in _read("device_spec", text))


@functools.lru_cache(maxsize=64)
def _aliases(texts: tuple[str, ...]) -> Mapping[str, tuple[Alias, ...]]:
    found: dict[str, tuple[Alias, ...]] = {}
    for text in texts:
        for told in _read("alias", text):
            name, one = _alias(told, text)
            found[name] = (*found.get(name, ()), one)
    return found


def _bad(option: str, text: str, why: str) -> Failed:
    return Failed(f"[pci] {option} = {text}: {why}.", now="Nothing was changed.",
                  next="Correct the option and restart the agent.", code="bad_option")


def _read(option: str, text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _bad(option, text, f"this is no JSON ({error})") from error
    listed = found if isinstance(found, list) else [found]
    known = SPEC_KEYS if option == "device_spec" else ALIAS_KEYS
    for told in listed:
        if not isinstance(told, dict):
            raise _bad(option, text, "it has to be an object")
        strange = sorted(set(told) - known)
        if strange:
            raise _bad(option, text,
                       f"{', '.join(strange)} is not among {', '.join(sorted(known))}")
    return listed


def _id(told: Mapping[str, Any], key: str, option: str, text: str, other: str | None) -> str | None:
    value = told.get(key)
    if value is None or (value == "*" and option == "device_spec"):
        return other
    if not re.fullmatch(r"[0-9a-fA-F]{4}", str(value)):
        raise _bad(option, text, f"{key} is not four hexadecimal digits")
    return str(value).lower()


def _spec(told: Mapping[str, Any], text: str) -> Spec:
    managed = str(told.get("managed", "yes")).lower()
    if managed not in ("yes", "no", "true", "false"):
        raise _bad("device_spec", text, "managed is yes or no")
    tags = tuple((key, str(told[key])) for key in TAGS if told.get(key) is not None)
    return Spec(_id(told, "vendor_id", "device_spec", text, "*") or "*",
                _id(told, "product_id", "device_spec", text, "*") or "*",
                _address(told.get("address"), text), managed in ("yes", "true"), tags)


def _address(told: Any, text: str) -> re.Pattern | None:
    if told is None:
        return None
    if isinstance(told, dict):
        strange = set(told) - set(WIDTHS)
        parts = [f"(?:{told.get(key, '.*')})" for key in WIDTHS]
        if strange:
            raise _bad("device_spec", text, f"an address has no {', '.join(sorted(strange))}")
    else:
        found = PARTS.fullmatch(str(told).lower())
        if found is None:
            raise _bad("device_spec", text, "the address is not like 0000:06:*.*")
        parts = [ANY if value in (None, "*") else value.zfill(width)
                 for value, width in zip(found.groups(), WIDTHS.values(), strict=True)]
    try:
        return re.compile("{}:{}:{}\\.{}".format(*parts))
    except re.error as error:
        raise _bad("device_spec", text, f"the address is no regular expression ({error})") \
            from error


def _alias(told: Mapping[str, Any], text: str) -> tuple[str, Alias]:
    name, kind, policy = told.get("name"), told.get("device_type"), told.get("numa_policy")
    if not isinstance(name, str) or not name:
        raise _bad("alias", text, "it has no name")
    for key, value, allowed in (("device_type", kind, KINDS), ("numa_policy", policy, POLICIES),
                                ("capability_type", told.get("capability_type"), ("pci",))):
        if value is not None and value not in allowed:
            raise _bad("alias", text, f"{key} is one of {', '.join(allowed)}")
    return name, Alias(_id(told, "vendor_id", "alias", text, None),
                       _id(told, "product_id", "alias", text, None), kind, policy)


# -- the choice -----------------------------------------------------------------------------------
def offered(listed: Iterable[Spec], devices: Iterable[HostDevice]) -> list[Offer]:
    """The devices that guests may have, by address; the first spec that fits counts."""
    listed = tuple(listed)
    found = ((device, next((spec for spec in listed if spec.offers(device)), None))
             for device in sorted(devices, key=lambda device: device.address))
    return [Offer(device, spec) for device, spec in found if spec is not None]


def free(offers: Iterable[Offer], taken: Iterable[Given]) -> list[Offer]:
    """Those that nobody holds. A physical function is not free while one of its virtual functions
    is held, nor these while it is."""
    taken = tuple(taken)
    held = {given.address for given in taken}
    parents = {given.parent for given in taken}
    return [offer for offer in offers if offer.device.address not in held | parents
            and offer.device.parent not in held]  # fmt: skip


def choose(requests: Iterable[Request], offers: Iterable[Offer], cells: Nearness | None,
           own: frozenset[str] = frozenset()) -> tuple[Given, ...]:
    """The devices for a guest, of those that are free. Raises NoDevice.

    :param own: addresses that the guest has already, which it keeps where they do.
    """
    there = sorted(offers, key=lambda offer: (
        offer.device.address not in own,
        cells is not None and offer.device.cell not in cells.cells, offer.device.address))
    wanted = [request for request in requests for _ in range(request.count)]
    # Physical functions first: what they take along nobody else can have.
    wanted.sort(key=lambda request: all(alias.kind != PF for alias in request.aliases))
    found: dict[str, int] = {}  # address: which of the wanted
    for number, request in enumerate(wanted):
        if not _match(number, wanted, there, cells, found, set()):
            raise NoDevice(_why(request, there, cells))
    by_address = {offer.device.address: offer for offer in there}
    return tuple(_given(wanted[number].name, by_address[address])
                 for address, number in sorted(found.items(), key=lambda item: item[1]))


def _given(name: str, offer: Offer) -> Given:
    return Given(name, offer.device.address, offer.spec.managed, offer.device.parent)


def _match(number: int, wanted: list[Request], there: list[Offer], cells: Nearness | None,
           found: dict[str, int], seen: set[str]) -> bool:
    """Find a device for one wish; one that has another's device may make that take another one."""
    for offer in there:
        device = offer.device
        if device.address in seen or _shut(device, there, found) \
                or not wanted[number].takes(device, cells):
            continue
        seen.add(device.address)
        holder = found.get(device.address)
        if holder is None or _match(holder, wanted, there, cells, found, seen):
            found[device.address] = number
            return True
    return False


def _shut(device: HostDevice, there: list[Offer], found: Mapping[str, int]) -> bool:
    """Whether the guest gets the device's physical function, or one of its virtual ones."""
    return device.parent in found or (device.kind == PF and any(
        offer.device.parent == device.address and offer.device.address in found
        for offer in there))  # fmt: skip


def _why(request: Request, there: list[Offer], cells: Nearness | None) -> str:
    kinds = ", ".join(alias.words for alias in request.aliases)
    matching = sum(request.takes(offer.device, None) for offer in there)
    near = sum(request.takes(offer.device, cells) for offer in there)
    far = f", {near} of them near its NUMA cells" if near != matching else ""
    return f"{request.count} of alias {request.name} ({kinds}) asked for, {matching} free{far}"


def fulfils(given: Iterable[Given], wanted: Mapping[str, int]) -> bool:
    """Whether these devices are what a flavor asks for."""
    count: dict[str, int] = {}
    for each in given:
        count[each.alias] = count.get(each.alias, 0) + 1
    return count == dict(wanted)

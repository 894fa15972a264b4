"""Smaller wishes of flavor or image: decided here, and added to the domain that the rest makes.

Each is one field of :class:`Extras` and one function of CONFIGURATORS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from virt.wishes import Wishes, refuse
from virt.xml import controller, device, display, features
from virt.xml.domain import Domain

if TYPE_CHECKING:
    from virt.libvirt.builder import Plan

SOUND = ("sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb")
USB = ("none", "piix3-uhci", "piix4-uhci", "ehci", "ich9-ehci1", "nec-xhci", "qemu-xhci")
INPUT_BUSES = ("usb", "virtio")
IOMMU = ("none", "intel", "virtio", "auto")
ADDRESS_MODES = ("emulate", "passthrough")
LEAST_BITS, MOST_BITS = 32, 52  # of a physical address on x86-64
SPOOFED = "1234567890ab"  # the vendor that drivers see which refuse to run in a guest


@dataclass(frozen=True)
class Extras:
    """``None`` and False where nothing was said. ``address_bits`` go with ``address_mode``."""

    boot_menu: bool = False
    hpet: bool = False
    pmu: bool | None = None
    hidden: bool = False
    packed: bool = False
    input_bus: str | None = None
    sound: str | None = None
    usb: str | None = None
    iommu: str | None = None
    address_mode: str | None = None
    address_bits: int | None = None


def decide(wishes: Wishes, pcie: bool) -> Extras:
    """What flavor and image ask for. Raises Failed by name."""
    mode, bits = _addresses(wishes)
    return Extras(
        boot_menu=bool(wishes.yes("boot_menu", agree=False)),
        hpet=bool(wishes.switch("image", "hw_time_hpet")),
        pmu=wishes.yes("pmu"),
        hidden=_hidden(wishes),
        packed=bool(wishes.yes("virtio_packed_ring")),
        input_bus=wishes.word("hw_input_bus", INPUT_BUSES, "") or None,
        sound=wishes.choice("sound_model", SOUND),
        usb=wishes.choice("usb_model", USB),
        iommu=_iommu(wishes, pcie),
        address_mode=mode,
        address_bits=bits,
    )


def _hidden(wishes: Wishes) -> bool:
    """Both spellings of a flavor; a flavor or an image suffices."""
    flavor = wishes.switch("flavor", "hide_hypervisor_id")
    return bool(flavor or wishes.switch("flavor", "hw:hide_hypervisor_id")
                or wishes.switch("image", "img_hide_hypervisor_id"))  # fmt: skip


def _iommu(wishes: Wishes, pcie: bool) -> str | None:
    wanted = wishes.choice("viommu_model", IOMMU)
    if wanted in (None, "none"):
        return None
    if not pcie:
        source, name, value = wishes.said("viommu_model") or ("flavor", "hw:viommu_model", wanted)
        refuse(source, name, value, "none on this machine type (an IOMMU needs q35)")
    return "virtio" if wanted == "auto" else wanted


def _addresses(wishes: Wishes) -> tuple[str | None, int | None]:
    mode = wishes.choice("maxphysaddr_mode", ADDRESS_MODES)
    found = wishes.said("maxphysaddr_bits")
    bits = None
    if found is not None:
        source, name, value = found
        bits = wishes.number(source, name)
        if mode != "emulate":
            refuse(source, name, value, "a number beside hw:maxphysaddr_mode=emulate")
        if not LEAST_BITS <= (bits or 0) <= MOST_BITS:
            refuse(source, name, value, f"{LEAST_BITS} to {MOST_BITS}")
    elif mode == "emulate":
        source, name, value = wishes.said("maxphysaddr_mode") or ("flavor", "", mode)
        refuse(source, name, value, "passthrough, or give hw:maxphysaddr_bits")
    return mode, bits


# -- in the domain ------------------------------------------------------------------------------
def boot_menu(domain: Domain, plan: Plan) -> None:
    if plan.hardware.extras.boot_menu:
        domain.os.boot_menu = True


def high_precision_timer(domain: Domain, plan: Plan) -> None:
    if plan.hardware.extras.hpet:
        for timer in domain.clock.timers:
            if timer.name == "hpet":
                timer.present = True
                return
        domain.clock.add(features.Timer(name="hpet", present=True))


def counters(domain: Domain, plan: Plan) -> None:
    domain.features.pmu = plan.hardware.extras.pmu


def hiding(domain: Domain, plan: Plan) -> None:
    """Let guests not see that they are guests. Only KVM shows itself, by a CPUID leaf."""
    if not plan.hardware.extras.hidden:
        return
    if plan.hardware.virt_type == "kvm":
        domain.features.hidden = True
    if domain.features.hyperv is not None:
        hyperv = domain.features.hyperv
        hyperv.vendor_spoofed, hyperv.vendor = True, SPOOFED


def addresses(domain: Domain, plan: Plan) -> None:
    extras = plan.hardware.extras
    if extras.address_mode and domain.cpu is not None:
        domain.cpu.address_mode = extras.address_mode
        domain.cpu.address_bits = extras.address_bits


def packed_rings(domain: Domain, plan: Plan) -> None:
    if not plan.hardware.extras.packed:
        return
    for drive in domain.devices.disks:
        if drive.bus == "virtio":
            drive.packed = True
    for nic in domain.devices.interfaces:
        if nic.model == "virtio":
            nic.packed = True


def inputs(domain: Domain, plan: Plan) -> None:
    """A tablet where one was chosen, and a keyboard beside the machine's own where a bus was."""
    bus = plan.hardware.extras.input_bus
    if plan.hardware.pointer == "usbtablet":
        domain.devices.add(display.Input(type="tablet", bus=bus or "usb"))
    if bus:
        domain.devices.add(display.Input(type="keyboard", bus=bus))


def usb(domain: Domain, plan: Plan) -> None:
    """The controller that was asked for, one where a device needs it, else none at all, which
    saves the guest many wake-ups."""
    extras = plan.hardware.extras
    tablet = plan.hardware.pointer == "usbtablet" and extras.input_bus != "virtio"
    needed = tablet or "usb" in (extras.input_bus, extras.sound) \
        or "usb" in {drive.bus for drive in plan.drives}
    model = extras.usb or ("qemu-xhci" if needed else "none")
    if needed and model == "none":
        refuse("flavor", "hw:usb_model", model, "a controller, since a device is to be on USB")
    domain.devices.add(controller.Controller(type="usb", index=0, model=model))


def sound(domain: Domain, plan: Plan) -> None:
    if plan.hardware.extras.sound:
        domain.devices.add(device.Sound(model=plan.hardware.extras.sound))


def iommu(domain: Domain, plan: Plan) -> None:
    model = plan.hardware.extras.iommu
    if model is None:
        return
    made = device.IOMMU(model=model)
    if model == "intel":  # what device assignment inside the guest needs
        made.caching_mode = made.iotlb = True
    if model == "intel" and plan.hardware.virt_type == "kvm":  # and more than 255 CPUs
        domain.features.ioapic = "qemu"
        made.intremap = made.eim = True
    domain.devices.add(made)


CONFIGURATORS: tuple[Callable[[Domain, Plan], None], ...] = (
    boot_menu,
    high_precision_timer,
    counters,
    hiding,
    addresses,
    packed_rings,
    usb,
    inputs,
    sound,
    iommu,
)

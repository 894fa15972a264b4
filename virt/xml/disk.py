"""Disks and cdroms."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Element, Flag, Prop


class Disk(Element):
    """One drive backed by a file. Limits are in bytes and operations per second."""

    tag = "disk"
    type = Prop("@type")
    device = Prop("@device")
    driver = Prop("driver@name")
    format = Prop("driver@type")
    cache = Prop("driver@cache")
    io = Prop("driver@io")
    discard = Prop("driver@discard")
    detect_zeroes = Prop("driver@detect_zeroes")
    queues = Prop("driver@queues", INT)
    iothread = Prop("driver@iothread", INT)
    packed = Prop("driver@packed", ON_OFF)
    iommu = Prop("driver@iommu", ON_OFF)
    source = Prop("source@file")
    backing_store = Flag("backingStore")  # the chain below it, which libvirt finds by itself
    target = Prop("target@dev")
    bus = Prop("target@bus")
    total_bytes_sec = Prop("iotune/total_bytes_sec", INT)
    read_bytes_sec = Prop("iotune/read_bytes_sec", INT)
    write_bytes_sec = Prop("iotune/write_bytes_sec", INT)
    total_iops_sec = Prop("iotune/total_iops_sec", INT)
    read_iops_sec = Prop("iotune/read_iops_sec", INT)
    write_iops_sec = Prop("iotune/write_iops_sec", INT)
    readonly = Flag("readonly")
    boot_order = Prop("boot@order", INT)
    address_type = Prop("address@type")  # on the SCSI bus, where libvirt's own end at unit 6
    controller = Prop("address@controller", INT)
    address_bus = Prop("address@bus", INT)
    address_target = Prop("address@target", INT)
    unit = Prop("address@unit", INT)

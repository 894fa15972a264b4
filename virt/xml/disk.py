"""Disks and cdroms."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Child, Children, Element, Flag, Prop


class Host(Element):
    """A server of a network disk."""

    tag = "host"
    name = Prop("@name")
    port = Prop("@port", INT)


class Source(Element):
    """Where a disk is: a ``file``, a ``device``, or a ``name`` within a ``protocol`` of hosts.
    Passwords and passphrases are uuids of secrets."""

    tag = "source"
    file = Prop("@file")
    device = Prop("@dev")
    protocol = Prop("@protocol")
    name = Prop("@name")
    hosts = Children(Host)
    config = Prop("config@file")  # Ceph's, which names its hosts
    initiator = Prop("initiator/iqn@name")
    user = Prop("auth@username")
    secret_usage = Prop("auth/secret@type")
    secret = Prop("auth/secret@uuid")
    encryption = Prop("encryption@format")
    passphrase_usage = Prop("encryption/secret@type")
    passphrase = Prop("encryption/secret@uuid")


class Disk(Element):
    """One drive. ``source`` is the path of one backed by a file, ``origin`` any kind of source.
    Limits are in bytes and operations per second, for bursts of so many seconds at most."""

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
    origin = Child(Source)
    backing_store = Flag("backingStore")  # the chain below it, which libvirt finds by itself
    target = Prop("target@dev")
    bus = Prop("target@bus")
    total_bytes_sec = Prop("iotune/total_bytes_sec", INT)
    read_bytes_sec = Prop("iotune/read_bytes_sec", INT)
    write_bytes_sec = Prop("iotune/write_bytes_sec", INT)
    total_iops_sec = Prop("iotune/total_iops_sec", INT)
    read_iops_sec = Prop("iotune/read_iops_sec", INT)
    write_iops_sec = Prop("iotune/write_iops_sec", INT)
    total_bytes_sec_max = Prop("iotune/total_bytes_sec_max", INT)
    read_bytes_sec_max = Prop("iotune/read_bytes_sec_max", INT)
    write_bytes_sec_max = Prop("iotune/write_bytes_sec_max", INT)
    total_iops_sec_max = Prop("iotune/total_iops_sec_max", INT)
    read_iops_sec_max = Prop("iotune/read_iops_sec_max", INT)
    write_iops_sec_max = Prop("iotune/write_iops_sec_max", INT)
    size_iops_sec = Prop("iotune/size_iops_sec", INT)
    total_bytes_sec_max_length = Prop("iotune/total_bytes_sec_max_length", INT)
    read_bytes_sec_max_length = Prop("iotune/read_bytes_sec_max_length", INT)
    write_bytes_sec_max_length = Prop("iotune/write_bytes_sec_max_length", INT)
    total_iops_sec_max_length = Prop("iotune/total_iops_sec_max_length", INT)
    read_iops_sec_max_length = Prop("iotune/read_iops_sec_max_length", INT)
    write_iops_sec_max_length = Prop("iotune/write_iops_sec_max_length", INT)
    readonly = Flag("readonly")
    shareable = Flag("shareable")
    serial = Prop("serial")
    boot_order = Prop("boot@order", INT)
    address_type = Prop("address@type")  # on the SCSI bus, where libvirt's own end at unit 6
    controller = Prop("address@controller", INT)
    address_bus = Prop("address@bus", INT)
    address_target = Prop("address@target", INT)
    unit = Prop("address@unit", INT)

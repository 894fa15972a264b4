"""Buses inside the guest: PCIe ports, SCSI, USB."""

from __future__ import annotations

from virt.xml.base import INT, ON_OFF, Element, Prop


class Controller(Element):
    tag = "controller"
    type = Prop("@type")
    index = Prop("@index", INT)
    model = Prop("@model")
    queues = Prop("driver@queues", INT)
    iothread = Prop("driver@iothread", INT)
    iommu = Prop("driver@iommu", ON_OFF)

"""[pci]: which of the host's PCI devices guests may have, and under which names."""

from oslo_config import cfg

GROUP = "pci"

OPTS = [
    cfg.MultiStrOpt(
        "device_spec",
        default=[],
        help="PCI devices that guests may have, as JSON, one option for each set, for example "
        '{"vendor_id": "8086", "product_id": "10ca", "address": "0000:06:*.*"}. An address may '
        'also be regular expressions: {"bus": "06", "slot": ".*", "function": "[2-7]"}; the one '
        "of a physical function stands for its virtual functions too. Further keys: managed "
        '("no": the device is bound to vfio-pci already and libvirt leaves it so), '
        "physical_network, trusted. Unset: none.",
    ),
    cfg.MultiStrOpt(
        "alias",
        default=[],
        help="A name by which flavors ask for devices (pci_passthrough:alias=NAME:COUNT), as JSON, "
        'for example {"name": "gpu", "vendor_id": "10de", "product_id": "1eb8", "device_type": '
        '"type-PCI", "numa_policy": "required"}. A name that is given more than once stands for '
        "each of its devices. numa_policy is required, legacy (where the device's cell is known), "
        "preferred or socket.",
    ),
]

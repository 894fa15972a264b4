"""Several hypervisor hosts on one machine, to see and to test moves of guests; see tools/lab.

Each host is a set of namespaces with its own libvirtd, state and agent. One more network
namespace, the switch, joins them and holds the broker and the control plane. No network
interface is made outside namespaces, so that labs never meet and may all use the same addresses.
"""

from tools.toolbox.lab.host import LabHost
from tools.toolbox.lab.lab import Lab
from tools.toolbox.lab.place import LabError, Place
from tools.toolbox.lab.service import Service

__all__ = ["Lab", "LabError", "LabHost", "Place", "Service"]

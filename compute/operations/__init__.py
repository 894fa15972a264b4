"""The table of contents of the product: one verb, one file."""

from compute.engine.operation import Operation
from compute.operations.attach_interface import AttachInterface
from compute.operations.attach_volume import AttachVolume
from compute.operations.backup import Backup
from compute.operations.crash_dump import CrashDump
from compute.operations.delete import Delete
from compute.operations.detach_interface import DetachInterface
from compute.operations.detach_volume import DetachVolume
from compute.operations.disconnect_volume import DisconnectVolume
from compute.operations.evacuate import Evacuate
from compute.operations.extend_volume import ExtendVolume
from compute.operations.live_in import LiveIn
from compute.operations.live_out import LiveOut
from compute.operations.pause import Pause
from compute.operations.quiesce import Quiesce
from compute.operations.reap import Reap
from compute.operations.reboot import Reboot
from compute.operations.rebuild import Rebuild
from compute.operations.reclaim import Reclaim
from compute.operations.rescue import Rescue
from compute.operations.reserve_device import ReserveDevice
from compute.operations.resize_back import ResizeBack
from compute.operations.resize_confirm import ResizeConfirm
from compute.operations.resize_in import ResizeIn
from compute.operations.resize_out import ResizeOut
from compute.operations.resize_prep import ResizePrep
from compute.operations.resize_revert import ResizeRevert
from compute.operations.restore import Restore
from compute.operations.resume import Resume
from compute.operations.set_password import SetPassword
from compute.operations.shelve import Shelve
from compute.operations.shelve_offload import ShelveOffload
from compute.operations.snapshot import Snapshot
from compute.operations.soft_delete import SoftDelete
from compute.operations.spawn import Spawn
from compute.operations.start import Start
from compute.operations.stop import Stop
from compute.operations.suspend import Suspend
from compute.operations.swap_volume import SwapVolume
from compute.operations.unpause import Unpause
from compute.operations.unquiesce import Unquiesce
from compute.operations.unrescue import Unrescue
from compute.operations.unshelve import Unshelve
from compute.operations.unsupported import Unsupported
from compute.operations.vacate import Vacate

OPERATIONS: dict[str, Operation] = {
    operation.verb: operation
    for operation in (
        Spawn(), Delete(), Start(), Stop(), Reboot(), Pause(), Unpause(), Suspend(), Resume(),
        Snapshot(), Backup(), Rebuild(), Shelve(), ShelveOffload(), Unshelve(),
        SoftDelete(), Restore(), Reclaim(), AttachInterface(), DetachInterface(),
        ResizePrep(), ResizeOut(), ResizeIn(), ResizeConfirm(), ResizeRevert(), ResizeBack(),
        CrashDump(), Rescue(), Unrescue(), SetPassword(), Quiesce(), Unquiesce(),
        ReserveDevice(), AttachVolume(), DetachVolume(), ExtendVolume(), SwapVolume(),
        DisconnectVolume(), LiveOut(), LiveIn(), Evacuate(), Reap(), Vacate(), Unsupported())
}

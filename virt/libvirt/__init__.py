"""The libvirt driver. Nothing is imported here, so that naming the package costs nothing."""

"""libvirt's documents as classes: one element per class, its content as declared properties."""

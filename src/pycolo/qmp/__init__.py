"""QMP with types: commands, the values in them, replies, events and QEMU's own schema."""

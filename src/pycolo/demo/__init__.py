"""A demonstration on one machine: QEMU builds, a guest, and a pair that outlives several faults."""

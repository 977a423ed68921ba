"""The fuse: a small process that stops a primary's QEMU when its permission to run is not renewed.

`pycolo-fuse`, also `python -m pycolo.fuse`, is the process; each host has one. An agent talks to it
through `pycolo.fuse.client`. The process imports as few modules as possible, since all of its
memory is locked.
"""

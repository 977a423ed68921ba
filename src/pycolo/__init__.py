"""Declarative fault tolerance of virtual machines: QEMU COLO pairs, from Python."""

__version__ = "0.1.0"

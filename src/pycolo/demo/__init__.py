"""Whole lives of a pair on one machine: QEMU builds, guests, and the show that uses them."""

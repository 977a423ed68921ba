"""The pair file that `pycolo init` writes."""

from __future__ import annotations

from typing import Final

TEMPLATE: Final = """\
# A pair: one guest that runs on two hosts in lock-step. Edit what is marked with <-.
format_version = 1
name = "{name}"
checkpoint_delay_ms = 1000    # at most this long until the secondary is made equal
initial_sync = "full"         # each disk is copied to the secondary at the first start

[machine]
memory_mib = 1024             # the secondary's host needs twice that
vcpus = 1
accelerator = "kvm"           # "tcg" needs QEMU 11.0 or later
cpu = "qemu64,kvmclock=on"    # <- a model that both hosts have, not "host"

[[nodes]]
name = "alpha"
address = "192.0.2.11"        # <- where the other host reaches it, on a network of the two alone
image_folder = "/var/lib/pycolo/{name}"
# [nodes.ssh]                 # how this machine reaches the host; without it, it is this machine
# address = "alpha.example"
# key_file = "/etc/pycolo/key"
# known_hosts_file = "/etc/pycolo/known_hosts"

[[nodes]]                     # a third and later node is a spare
name = "beta"
address = "192.0.2.12"        # <-
image_folder = "/var/lib/pycolo/{name}"
# [nodes.ssh]
# address = "beta.example"
# key_file = "/etc/pycolo/key"
# known_hosts_file = "/etc/pycolo/known_hosts"

[ports]
# base = 9100                 # for several pairs on one host: another one for each, 20 apart

[[disks]]
size_bytes = 21_474_836_480   # <- exactly the virtual size of the image
image = "primary.qcow2"       # in the image_folder of the first node before the first launch
image_format = "qcow2"

[[chains]]                    # a network card
model = "virtio-net-pci"
mac = "52:54:00:12:34:56"     # <- another one for each guest
[chains.netdev]
type = "tap"
options = {{ ifname = "tap0", script = "no", downscript = "no" }}
"""

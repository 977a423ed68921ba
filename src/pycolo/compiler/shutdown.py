"""`shutdown`: the guest powers itself off, and both QEMUs end."""

from __future__ import annotations

from pycolo.compiler._draft import Draft
from pycolo.compiler.failover import end_secondary, instances_on
from pycolo.conditions import AllOf, Gone, NotRunning, PoweredOff
from pycolo.errors import compile_error
from pycolo.qmp.commands import SystemPowerdown
from pycolo.qmp.states import RUN_STANDING


def shut_down(draft: Draft, primary: str) -> None:
    """Emit the steps that ask the guest to power itself off, and then end the secondary's QEMU.

    The plan waits for up to `shutdown_s` until the guest is off and the primary's QEMU has ended by
    itself. Only then is the secondary's QEMU ended, if there is one. A guest that does not react
    ends the plan; no QEMU is ended then.

    A secondary in COLO does not see the power button and does not end by itself (qemu-behaviour
    19.12). A fresh secondary does not end by itself either.

    Raises:
        CompileError: The guest does not run, so it would not react to the power button.
    """
    live = draft.live(primary)
    if live.run_state in RUN_STANDING:
        why = f"the guest on {primary} does not run ({live.run_state}), so it cannot power off"
        raise compile_error("paused", why, "continue it, or end its QEMU by hand", node=primary)
    peer = draft.pair.peer_of(primary).name
    has_peer = live.colo_mode == "primary" or draft.now.live(peer) is not None
    secondary = peer if has_peer else None
    instances = instances_on(draft, secondary)
    draft.check_instances(node for node in (primary, secondary) if node and draft.now.live(node))
    why = "the guest is asked to power itself off; one without ACPI does not react"
    draft.execute(primary, SystemPowerdown(), why)
    draft.wait(
        primary,
        "powered-off",
        AllOf(conditions=(PoweredOff(node=primary), Gone(node=primary))),
        "its QEMU says so and ends by itself; until then nothing is ended (qemu-behaviour 19.3)",
        limit_s=draft.timeouts.shutdown_s,
    )
    if secondary is not None:
        why = "the guest is off; here a failover would run it again (qemu-behaviour 19.12)"
        end_secondary(draft, secondary, instances, why)
    nodes = [node for node in (primary, secondary) if node is not None]
    until = AllOf(conditions=tuple(NotRunning(node=node) for node in nodes))
    why = "images are free once a process has ended"
    draft.wait(primary, "not-running", until, why, limit_s=draft.timeouts.command_s)

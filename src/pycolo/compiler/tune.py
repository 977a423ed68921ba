"""`set-checkpoint-delay`: the longest time between two checkpoints."""

from __future__ import annotations

from pycolo.compiler._draft import Draft
from pycolo.errors import compile_error
from pycolo.features import Features
from pycolo.qmp.commands import MigrateSetParameters


def set_delay(draft: Draft, primary: str, checkpoint_delay_ms: int, features: Features) -> None:
    """Emit the command that sets the checkpoint delay, unless the delay has that value already.

    Args:
        draft: The plan so far.
        primary: The primary.
        checkpoint_delay_ms: The delay, 1 to 4294967295.
        features: What the QEMU understands.

    Raises:
        CompileError: The change would force a checkpoint that deadlocks this QEMU.
    """
    live = draft.live(primary)
    if live.colo_mode != "none":
        refuse_deadlock(draft, features)
    if live.checkpoint_delay_ms != checkpoint_delay_ms:
        command = MigrateSetParameters(x_checkpoint_delay_ms=checkpoint_delay_ms)
        why = "forces a checkpoint at once, then counts anew (qemu-behaviour 4.11)"
        draft.execute(primary, command, why)


def refuse_deadlock(draft: Draft, features: Features) -> None:
    """Refuse a procedure that forces a checkpoint if a checkpoint deadlocks this QEMU.

    Raises:
        CompileError: The accelerator is TCG, on a QEMU before 11.0.
    """
    if draft.pair.machine.accelerator == "tcg" and not features.tcg:
        why = f"QEMU {features.version} deadlocks at a checkpoint under TCG, and this forces one"
        raise compile_error(
            "checkpoint-deadlock", f"{why} (qemu-behaviour 1.6, 4.11)", "use KVM or QEMU 11.0"
        )

"""How the three QEMU versions differ where a controller can see it, in one table.

Source: qemu-behaviour 2.3, 4.6 to 4.9, 9.1 to 9.4, 17.10, 18.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, final

import attrs

from pycolo.qmp.schema import PackagedVersion


@final
@attrs.frozen(kw_only=True)
class Quirks:
    """What one version does and says."""

    package: str
    "What its greeting calls the distribution's package."
    no_colo: str
    "Refusal of x-colo-lost-heartbeat outside COLO."
    needs_return_path: bool
    "x-colo wants return-path; if not, return-path breaks the entry."
    shows_device: bool
    "The MIGRATION path has `device`."
    shows_failing: bool
    "A failure passes `failing`."
    waits_in_device: bool
    "With a silent secondary the primary waits in `device`; else it says `colo` already."
    pause_works: bool
    "COLO can be entered by way of pre-switchover."
    runs_after_failure: bool
    "A failed migration lets a guest run again that ran before; else it ends in postmigrate."
    second_migrate: Literal["refused", "breaks"]
    "What a migrate during COLO does to a primary."
    aborts_on_second_migrate: bool
    "A migrate during COLO ends a secondary."
    secondary_needs_colo: Literal["no", "exits", "hangs the primary"]
    "What comes of a secondary that was not given x-colo."
    capabilities_in_colo: bool
    "migrate-set-capabilities is accepted of a primary in COLO."
    cont_in_checkpoint: bool
    "cont is accepted inside a checkpoint."
    bad_compare_hangs: bool
    "A colo-compare without its chardevs hangs QEMU; else it aborts."
    tcg_checkpoints: bool
    "A checkpoint under TCG comes to an end."
    error_prefix: str
    "What the human monitor's errors begin with."
    taken_twice: str
    "Refusal of a chardev that another object has."
    failed_desc: str
    "Why a migration failed whose channel was cut."
    has_singlestep: bool
    "query-status tells singlestep."
    has_children: bool
    "query-named-block-nodes tells children."
    gone_capabilities: frozenset[str]
    "Capabilities that are listed by an older version only."


_OLD: Final = frozenset({"switchover-ack", "dirty-limit", "mapped-ram"})

QUIRKS: Final[Mapping[PackagedVersion, Quirks]] = {
    "7.2.22": Quirks(
        package="FakeQemu 7.2.22",
        no_colo="The feature 'colo' is not enabled",
        needs_return_path=False,
        shows_device=False,
        shows_failing=False,
        waits_in_device=False,
        pause_works=False,
        runs_after_failure=False,
        second_migrate="breaks",
        aborts_on_second_migrate=False,
        secondary_needs_colo="no",
        capabilities_in_colo=True,
        cont_in_checkpoint=True,
        bad_compare_hangs=False,
        tcg_checkpoints=False,
        error_prefix="",
        taken_twice="Device '{}' is in use",
        failed_desc="Unable to write to socket: Broken pipe",
        has_singlestep=True,
        has_children=False,
        gone_capabilities=_OLD,
    ),
    "10.0.13": Quirks(
        package="FakeQemu 10.0.13",
        no_colo="VM is not in COLO mode",
        needs_return_path=False,
        shows_device=True,
        shows_failing=False,
        waits_in_device=False,
        pause_works=True,
        runs_after_failure=True,
        second_migrate="refused",
        aborts_on_second_migrate=False,
        secondary_needs_colo="exits",
        capabilities_in_colo=False,
        cont_in_checkpoint=True,
        bad_compare_hangs=False,
        tcg_checkpoints=False,
        error_prefix="",
        taken_twice="chardev '{}' is already in use",
        failed_desc="Unable to write to socket: Broken pipe",
        has_singlestep=False,
        has_children=False,
        gone_capabilities=frozenset({"block", "compress"}),
    ),
    "11.1.3": Quirks(
        package="FakeQemu 11.1.3",
        no_colo="VM is not in COLO mode",
        needs_return_path=True,
        shows_device=True,
        shows_failing=True,
        waits_in_device=True,
        pause_works=True,
        runs_after_failure=True,
        second_migrate="refused",
        aborts_on_second_migrate=True,
        secondary_needs_colo="hangs the primary",
        capabilities_in_colo=False,
        cont_in_checkpoint=False,
        bad_compare_hangs=True,
        tcg_checkpoints=True,
        error_prefix="Error: ",
        taken_twice="chardev '{}' is already in use",
        failed_desc="Channel error: Input/output error",
        has_singlestep=False,
        has_children=True,
        gone_capabilities=frozenset({"block", "compress", "zero-blocks"}),
    ),
}

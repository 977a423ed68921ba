"""The differences between the three QEMU versions that a controller can see, in one table.

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
    """How one version behaves where the versions differ."""

    package: str
    "The name of the distribution's package in the greeting."
    no_colo: str
    "The error text of x-colo-lost-heartbeat outside COLO."
    needs_return_path: bool
    "Whether x-colo needs return-path; if not, entering COLO with return-path fails."
    shows_device: bool
    "Whether a migration passes the status `device`."
    shows_failing: bool
    "Whether a failed migration passes the status `failing`."
    waits_in_device: bool
    "Whether a primary whose secondary does not respond waits in `device`, not in `colo`."
    pause_works: bool
    "Whether COLO can be entered through pre-switchover."
    runs_after_failure: bool
    "Whether a guest that ran runs again after a failed migration; else it is in postmigrate."
    second_migrate: Literal["refused", "breaks"]
    "What `migrate` during COLO does to a primary."
    aborts_on_second_migrate: bool
    "Whether `migrate` during COLO aborts a secondary."
    secondary_needs_colo: Literal["no", "exits", "hangs the primary"]
    "What a secondary without the capability x-colo does when COLO begins."
    capabilities_in_colo: bool
    "Whether a primary in COLO accepts migrate-set-capabilities."
    cont_in_checkpoint: bool
    "Whether `cont` is accepted during a checkpoint."
    bad_compare_hangs: bool
    "Whether a colo-compare without its chardevs hangs QEMU; else QEMU aborts."
    tcg_checkpoints: bool
    "Whether a checkpoint under TCG completes."
    error_prefix: str
    "The prefix of the human monitor's errors."
    taken_twice: str
    "The error text for a chardev that another object uses."
    failed_desc: str
    "The error text of a migration whose channel was cut."
    has_singlestep: bool
    "Whether query-status reports `singlestep`."
    has_children: bool
    "Whether query-named-block-nodes reports `children`."
    gone_capabilities: frozenset[str]
    "The capabilities of other versions that this version does not list."


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

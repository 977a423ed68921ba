"""Rules that every test is held to."""

import os
import signal
from collections.abc import Generator

import pytest

_ON_CI = os.environ.get("CI") == "true"


def pytest_configure(config: pytest.Config) -> None:
    """Take SIGTERM as Ctrl-C: what tests have started runs in sessions of its own, and is ended."""
    before = signal.signal(signal.SIGTERM, _interrupt)

    def restore() -> None:
        signal.signal(signal.SIGTERM, before)

    config.add_cleanup(restore)


def _interrupt(*_: object) -> None:
    # A second one would cut short the clearing up that the first one has begun.
    signal.signal(signal.SIGTERM, lambda *_: None)
    if not callable(signal.getsignal(signal.SIGINT)):
        # A shell has its background jobs ignore Ctrl-C.
        raise KeyboardInterrupt
    # An event loop that runs cancels its main task on it, so that what is awaited is closed too.
    signal.raise_signal(signal.SIGINT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to run while a test does not say in a docstring what it shows."""
    silent = [
        item.nodeid
        for item in items
        if isinstance(item, pytest.Function) and not (item.function.__doc__ or "").strip()
    ]
    if silent:
        message = "tests without a docstring that says what they show: " + ", ".join(silent)
        raise pytest.UsageError(message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """On CI, fail a test on a real QEMU or etcd that skips: nobody would see that it never runs."""
    report = yield
    skips = report.skipped and not hasattr(report, "wasxfail")
    is_real = any(item.get_closest_marker(name) is not None for name in ("qemu", "etcd"))
    if _ON_CI and skips and is_real:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not skip where CI=true: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """On CI, fail a module that skips itself whole: its tests on real QEMU would go with it."""
    report = yield
    if _ON_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} may not skip where CI=true: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext

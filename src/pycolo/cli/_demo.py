"""What `pycolo demo` found out, for people."""

from __future__ import annotations

from pycolo.demo.report import Failover, LifeReport, Protection


def words(report: LifeReport) -> str:
    """The failovers and resumes of a life in order, and whether anything was lost."""
    events: list[Protection | Failover] = [*report.protections, *report.failovers]
    lines = [_event(event) for event in sorted(events, key=lambda event: event.at_s)]
    lines += [f"not shown here: {what}" for what in report.not_shown]
    lost = "not known" if report.lost_writes is None else str(report.lost_writes)
    lines.append(f"{report.acknowledged} disk writes were acknowledged, {lost} lost")
    if report.error is not None:
        lines.append(f"it ended early: {report.error}")
    if report.logs is not None:
        lines.append(f"logs: {report.logs}")
    return "\n".join(lines) + "\n"


def _event(event: Protection | Failover) -> str:
    if isinstance(event, Protection):
        return (
            f"{event.at_s:7.1f} s  {event.procedure}: {event.primary} protected by"
            f" {event.secondary} after {event.launched_s + event.protected_s:.2f} s"
        )
    outages = ", ".join(f"{name} {waited:.3f} s" for name, waited in event.outages_s.items())
    return (
        f"{event.at_s:7.1f} s  {event.victim} ({event.killed}) killed: {event.survivor} serves"
        f" after {event.restored_s * 1000:.0f} ms; waits: {outages or 'none'};"
        f" {event.survived} of {event.connections} connections live on,"
        f" {event.missing} of {event.acknowledged} writes missing"
    )

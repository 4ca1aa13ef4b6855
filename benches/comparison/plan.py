"""What is measured of each, for how long, and with how much load."""

import dataclasses

from rig import Rig
from subjects import DIRECT, Running


@dataclasses.dataclass
class Sizes:
    #: Seconds before anything is counted, and those that are.
    warm: float
    seconds: float
    #: As many in the closed loop, and in the open one.
    connections: int
    latency_connections: int
    rates: list[int]
    streams: int
    #: Seconds in which they begin.
    ramp: float
    #: Beside large uploads.
    streams_beside: int
    uploads: int
    upload_bytes: int


def full(streams: int, seconds: float) -> Sizes:
    return Sizes(0.6, seconds, 16, 32, [1000, 3000], streams, 1, 100, 4, 19_000_000)


CHECK = Sizes(0.05, 0.2, 2, 4, [100], 5, 0.1, 5, 1, 1_000_000)


def run(rig: Rig, running: Running, sizes: Sizes) -> dict:
    """The figures of one round."""
    times = {"warm": sizes.warm, "seconds": sizes.seconds, **running.tls}
    used = {"process": running.processes}
    figures: dict = {"start_ms": running.start_ms}
    figures["closed"] = rig.load("closed", running.address, connections=sizes.connections, **times, **used)
    for rate in sizes.rates:
        options = {"connections": sizes.latency_connections, "rate": rate, **times}
        figures[f"open {rate}"] = rig.load("open", running.address, **options)
    if running.holds_answers:
        return figures
    options = {"ramp": sizes.ramp, **times, **used}
    figures["streams"] = rig.load("streams", running.address, streams=sizes.streams, **options)
    uploads = {"uploads": sizes.uploads, "upload_bytes": sizes.upload_bytes}
    figures["uploads"] = rig.load("streams", running.address, streams=sizes.streams_beside, **uploads, **options)
    return figures


def is_complete(name: str, figures: dict) -> list[str]:
    """What is wrong with the figures of one round; nothing, if all are there and no request failed."""
    wrong = []
    for part, told in figures.items():
        if part == "start_ms":
            continue
        if told["failed"]["count"]:
            wrong.append(f"{name}, {part}: {told['failed']['count']} failed, the first: {told['failed']['first']}")
        wanted = [told.get(name, 1) for name in ["per_second", "events_per_second"]]
        wanted += [told["uploads"]] if part == "uploads" else []
        wanted += [told[times]["p99"] for times in ["latency_us", "late_us"] if times in told]
        # The upstream itself has no process of its own to be looked at.
        if "each" in told and name != DIRECT:
            wanted += [told["each"]["switches"], told["resident_kib"]]
            # A few events may take less than the hundredth of a second that is accounted.
            wanted += [told["each"]["cpu_us"]] if part == "closed" else []
        if not all(wanted):
            wrong.append(f"{name}, {part}: a figure is missing: {told}")
    return wrong

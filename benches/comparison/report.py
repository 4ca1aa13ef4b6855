"""The figures of all rounds as tables in Markdown, and as drawings."""

import statistics

from drawing import Panel, drawing
from plan import is_complete
from subjects import DIRECT

# What a column shows: the part of the load, and where its figure stands.
COLUMNS = [
    ("CPU a request, µs", "closed", ("each", "cpu_us"), 1.0, 1),
    ("of it in the kernel", "closed", ("each", "kernel_us"), 1.0, 1),
    ("switches a request", "closed", ("each", "switches"), 1.0, 2),
    ("requests/s", "closed", ("per_second",), 1.0, 0),
    ("RSS, MiB", "closed", ("resident_kib",), 1 / 1024, 0),
    ("CPU an event, µs", "streams", ("each", "cpu_us"), 1.0, 1),
    ("RSS with streams, MiB", "streams", ("resident_kib",), 1 / 1024, 0),
]
LATENCY = [
    (f"{rate}/s, {name}, ms", f"open {rate}", ("latency_us", name), 0.001, 2)
    for rate in [1000, 3000]
    for name in ["p50", "p99", "p999"]
]
LATE = [
    (f"{what}, {name}, ms", part, ("late_us", name), 0.001, 2)
    for part, what in [("streams", "streams"), ("uploads", "beside uploads")]
    for name in ["p50", "p99", "max"]
] + [("uploads", "uploads", ("uploads",), 1.0, 0)]


def values(rounds: list[dict], name: str, column: tuple) -> list[float]:
    _, part, keys, factor, _ = column
    found = []
    for figures in rounds:
        value = figures.get(name, {}).get(part)
        for key in keys:
            value = value.get(key) if value else None
        if value is not None and not (name == DIRECT and keys[0] in ("each", "resident_kib")):
            found.append(value * factor)
    return found


def cell(of_rounds: list[float], digits: int) -> str:
    """The median, and from where to where the rounds go."""
    if not of_rounds:
        return ""
    three = statistics.median(of_rounds), min(of_rounds), max(of_rounds)
    middle, least, most = (f"{value:,.{digits}f}" for value in three)
    return middle if least == most else f"{middle} ({least}–{most})"


def names(rounds: list[dict]) -> list[str]:
    """Of all that were measured in any round."""
    return list(dict.fromkeys(name for figures in rounds for name in figures))


def text(told: dict) -> str:
    """What was measured, with what and how, and the tables."""
    rounds = told["rounds"]
    lines = [f"- {told['machine']}"]
    lines.append(f"- build: {told['build']}; commit {told['commit']}; programs {told['programs']}")
    lines += [f"- {version}" for version in told["versions"].values()]
    lines += [f"- {run['date']}: `{run['command']}`" for run in told["runs"]]
    lines.append(f"- rounds: {len(rounds)} of {told['seconds']:g} s for each figure; median (least–most)")
    late = f"how late events come ({told['streams']} streams; 100 beside uploads)"
    for title, columns in [("what it costs", COLUMNS), ("how long a request takes", LATENCY), (late, LATE)]:
        lines += ["", f"| {title} | {' | '.join(column[0] for column in columns)} |", f"|---|{'---|' * len(columns)}"]
        for name in names(rounds):
            cells = [cell(values(rounds, name, column), column[4]) for column in columns]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *told["missing"], ""])


def drawings(told: dict) -> dict[str, str]:
    """By the name of the file."""
    rounds = told["rounds"]

    def bars(column: tuple, what: str = "", less: float = 0.0) -> Panel:
        found = [(name, values(rounds, name, column)) for name in names(rounds)]
        return what + column[0], [(name, statistics.median(of_one) - less) for name, of_one in found if of_one]

    def added(column: tuple) -> Panel:
        of_direct = values(rounds, DIRECT, column)
        what, less = ("time added, ", statistics.median(of_direct)) if of_direct else ("time, ", 0.0)
        title, of_all = bars(column, what, less)
        return title, [(name, value) for name, value in of_all if name != DIRECT]

    return {
        "cpu.svg": drawing([bars(COLUMNS[0])]),
        "latency.svg": drawing([added(column) for column in LATENCY if column[2][-1] != "p999"]),
        "lateness.svg": drawing([bars(column, "lateness of events, ") for column in LATE if column[2][-1] in ("p50", "p99")]),
    }


def wrong(rounds: list[dict]) -> list[str]:
    """What is missing in the figures, and what failed."""
    return [line for figures in rounds for name, of_one in figures.items() for line in is_complete(name, of_one)]

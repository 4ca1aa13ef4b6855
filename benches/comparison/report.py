"""The figures of all rounds as a table in Markdown, and as a drawing."""

import statistics
import sys

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


def table(told: dict) -> str:
    rounds = told["rounds"]
    names = list(dict.fromkeys(name for figures in rounds for name in figures))
    text = f"{told['machine']}; build: {told['build']}; rounds: {len(rounds)}, median (least–most)\n"
    late = f"how late events come ({told['streams']} streams; 100 beside uploads)"
    for title, columns in [("what it costs", COLUMNS), ("how long a request takes", LATENCY), (late, LATE)]:
        text += f"\n| {title} | {' | '.join(column[0] for column in columns)} |\n|---|{'---|' * len(columns)}\n"
        for name in names:
            cells = [cell(values(rounds, name, column), column[4]) for column in columns]
            text += f"| {name} | {' | '.join(cells)} |\n"
    return text


def must_be_whole(rounds: list[dict]) -> None:
    """Ends the program with what is wrong, if anything is."""
    wrong = [line for figures in rounds for name, of_one in figures.items() for line in is_complete(name, of_one)]
    if wrong or not any(rounds):
        sys.exit("\n".join(wrong) or "nothing was measured")


def plot(told: dict) -> str:
    """Bars of the CPU of a request."""
    rounds, lines = told["rounds"], []
    names = [name for name in rounds[0] if values(rounds, name, COLUMNS[0])]
    most = max(statistics.median(values(rounds, name, COLUMNS[0])) for name in names)
    for at, name in enumerate(names):
        middle = statistics.median(values(rounds, name, COLUMNS[0]))
        top = 30 + at * 24
        lines.append(f'<text x="150" y="{top + 13}" text-anchor="end">{name}</text>')
        lines.append(f'<rect x="160" y="{top}" width="{middle / most * 400:.0f}" height="18" fill="#4a7ab5"/>')
        lines.append(f'<text x="{165 + middle / most * 400:.0f}" y="{top + 13}">{middle:.1f}</text>')
    size = f'width="640" height="{40 + len(names) * 24}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<text x="160" y="18">CPU a request, µs</text>', *lines, "</svg>\n"])

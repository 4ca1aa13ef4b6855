"""What is kept of all rounds, under target/compare: the figures, with what they were measured, and what is made of them."""

import argparse
import datetime
import hashlib
import json
import shlex
import subprocess
import sys

import build
import programs
import report
from rig import FOLDER
from subjects import Subject

FILE = FOLDER / "results.json"
#: Rounds that differ in one of these are not of the same thing.
SAME = ["machine", "build", "commit", "programs", "streams", "seconds"]


def begin(given: argparse.Namespace, built: build.Programs, wanted: list[Subject]) -> dict:
    """Without rounds, or with those of earlier runs if they are kept."""
    told = {
        "machine": build.machine(),
        "build": built.description,
        "commit": commit(),
        "programs": digest(built),
        "streams": given.streams,
        "seconds": given.seconds,
        "versions": versions(wanted),
        "runs": [{"date": datetime.date.today().isoformat(), "command": shlex.join(["benches/compare", *sys.argv[1:]])}],
        "missing": ["NOT RUN: Envoy: Debian has no package of it"],
        "rounds": [],
    }
    if given.add and FILE.exists():
        earlier = json.loads(FILE.read_text())
        differs = [key for key in SAME if earlier.get(key) != told[key]]
        of_earlier = earlier.get("versions", {})
        differs += [name for name, version in told["versions"].items() if of_earlier.get(name, version) != version]
        if differs:
            sys.exit(f"not added: the earlier rounds differ in {', '.join(differs)}")
        told["versions"] = of_earlier | told["versions"]
        told["runs"] = earlier["runs"] + told["runs"]
        told["rounds"] = earlier["rounds"]
        told["missing"] = earlier["missing"]
    return told


def write(told: dict) -> None:
    FILE.write_text(json.dumps(told, indent=1) + "\n")
    FILE.with_suffix(".md").write_text(report.text(told))
    for name, drawing in report.drawings(told).items():
        FILE.with_name(name).write_text(drawing)


def commit() -> str:
    """Of the tree, and whether it has been changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=build.ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return told.stdout.strip() or "unknown"


def digest(built: build.Programs) -> str:
    both = hashlib.sha256(built.daemon.read_bytes())
    both.update(built.load.read_bytes())
    return both.hexdigest()[:12]


def versions(wanted: list[Subject]) -> dict[str, str]:
    """Of the other proxies that are measured and can be had."""
    found = {}
    for name in ["nginx", "haproxy"]:
        if any(subject.name.lower().startswith(name) for subject in wanted):
            try:
                found[name] = programs.version(name)
            except (programs.NotRun, OSError, subprocess.SubprocessError):
                # Whoever cannot be had is named when its turn comes.
                continue
    return found

"""Builds the daemon and the load, and says on what they run."""

import argparse
import dataclasses
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CARGO = ["cargo", "build", "--locked", "--package", "bedrock-sidecar", "--package", "bench-load", "--bins"]
QUICK = ["--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16"]
# What optimises little takes a third of the time to build, and counts grow and shrink with the code all the same. No
# request touches the SDKs where records go to no table.
LIGHT = ["--config", "profile.release.opt-level=1"]
for sdk in ["dynamodb", "secretsmanager", "sts"]:
    LIGHT += ["--config", f"profile.release.package.aws-sdk-{sdk}.opt-level=0"]
# Function names are needed for the profile; they change no instruction.
NAMES = ["--config", "profile.release.strip=false", "--config", 'profile.release.debug="line-tables-only"']
# Valgrind hides the kernel's vDSO, which rustix looks for by itself unless it asks the C library for the time.
LIBC = ["--features", "rustix/use-libc"]


@dataclasses.dataclass
class Programs:
    daemon: Path
    load: Path
    description: str


def programs(given: argparse.Namespace) -> Programs:
    """Builds in a target directory of its own, so that the settings of these builds do not undo other ones."""
    if given.binaries:
        return found(given.binaries, f"as found in {given.binaries.name}/")
    if given.check:
        subprocess.run([*CARGO, "--quiet"], cwd=ROOT, check=True)
        return found(TARGET / "debug", "debug")
    target = TARGET / "compare" / "build"
    command = [*CARGO, "--release", "--target-dir", target, *NAMES]
    command += (QUICK if given.quick else []) + (LIBC if given.instructions or given.growth else [])
    subprocess.run(command, cwd=ROOT, check=True)
    return found(target / "release", "release without LTO, 16 codegen units" if given.quick else "release")


def light() -> Programs:
    """The build whose instructions tests/instructions holds to committed figures."""
    target = TARGET / "instructions"
    command = [*CARGO, "--release", "--quiet", "--target-dir", target, *QUICK, *LIGHT, *LIBC]
    subprocess.run(command, cwd=ROOT, check=True)
    return found(target / "release", "release, optimised little")


def found(folder: Path, description: str) -> Programs:
    folder = folder.resolve()
    return Programs(folder / "bedrock-sidecar", folder / "bench-load", description)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores, {model}, Linux {platform.release()}"

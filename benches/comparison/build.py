"""Builds the daemon and the load, and says on what they run."""

import argparse
import dataclasses
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
DAEMON, LOAD = ["--package", "bedrock-sidecar"], ["--package", "bench-load"]
QUICK = ["--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16"]
# What optimises little takes a third of the time to build, and counts grow and shrink with the code all the same. No
# request touches the SDKs where records go to no table.
LIGHT = ["--config", "profile.release.opt-level=1"]
for sdk in ["dynamodb", "secretsmanager", "sts"]:
    LIGHT += ["--config", f"profile.release.package.aws-sdk-{sdk}.opt-level=0"]
# Function names are needed for the profile; they change no instruction.
NAMES = ["--config", "profile.release.strip=false", "--config", 'profile.release.debug="line-tables-only"']
# Of which packaging/profile.xz and packaging/layout-*.xz have records.
PROFILED, BY_PROFILE, LAID_OUT = "x86_64", ", optimised by profile", " and laid out"
# Valgrind hides the kernel's vDSO, which rustix looks for by itself unless it asks the C library for the time.
LIBC = ["--features", "rustix/use-libc"]


@dataclasses.dataclass
class Programs:
    daemon: Path
    load: Path
    description: str


def threads() -> int:
    """With which every proxy serves: as the daemon does by itself, one for each core that it may use, 8 at most."""
    return min(len(os.sched_getaffinity(0)), 8)


def programs(given: argparse.Namespace) -> Programs:
    """Builds in a target directory of its own, so that the settings of these builds do not undo other ones."""
    if given.binaries:
        return found(given.binaries, f"as found in {given.binaries.name}/")
    if given.check:
        build(*DAEMON, *LOAD, "--quiet")
        return found(TARGET / "debug", "debug")
    target = TARGET / "compare" / "build"
    is_profiled = platform.machine() == PROFILED
    if given.package:
        build(*LOAD, "--release", "--target-dir", target)
        description = "release of the packages" + is_profiled * (BY_PROFILE + LAID_OUT)
        return Programs(packaged(), target / "release" / LOAD[1], description)
    settings = ["--release", "--target-dir", target, *(QUICK if given.quick else [])]
    description = "release without LTO, 16 codegen units" if given.quick else "release"
    if given.instructions or given.growth:
        build(*DAEMON, *LOAD, *settings, *NAMES, *LIBC)
        return found(target / "release", description)
    # One after the other, so that features do not unify: the daemon is the one that `cargo build --release` makes, which
    # the profile knows.
    optimised = is_profiled and not given.quick
    build(*DAEMON, *settings, more=optimised_flags() if optimised else "")
    build(*LOAD, *settings)
    programs = found(target / "release", description + optimised * BY_PROFILE)
    return laid_out(programs) if optimised else programs


def build(*options: str | Path, more: str = "", flags: bool = True) -> None:
    """With more flags for the compiler, and with those that the environment has, if these may count."""
    environment = dict(os.environ)
    if not flags:
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"]:
            environment.pop(name, None)
    if more:
        # Which would overrule it.
        environment.pop("CARGO_ENCODED_RUSTFLAGS", None)
        environment["RUSTFLAGS"] = f"{environment.get('RUSTFLAGS', '')} {more}".strip()
    subprocess.run(["cargo", "build", "--locked", "--bins", *options], cwd=ROOT, check=True, env=environment)


def optimised_flags() -> str:
    """What has a program optimised by the profile of releases, and lets it be laid out."""
    profile = printed("profile", "use", TARGET / "compare")
    return f"-Cprofile-use={profile} {printed('layout', 'flags')}"


def laid_out(programs: Programs) -> Programs:
    """The daemon with its code laid out as that of the packages is, where the tool for that can be had."""
    try:
        printed("layout", "tool")
    except subprocess.CalledProcessError:
        print("NOT RUN: the program with its code laid out: it is measured as it was linked, without llvm-bolt (see above)")
        return programs
    output = TARGET / "compare" / "bedrock-sidecar"
    printed("layout", "apply", programs.daemon, "packaging/layout-sources.xz", output)
    return dataclasses.replace(programs, daemon=output, description=programs.description + LAID_OUT)


def packaged() -> Path:
    """The program that goes into the packages for this machine."""
    return Path(printed("program", "--target-dir", TARGET / "compare" / "package"))


def printed(name: str, *words: str | Path) -> str:
    """What a script of packaging/ prints."""
    done = subprocess.run([ROOT / "packaging" / name, *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def light() -> Programs:
    """The build whose instructions tests/instructions holds to committed figures."""
    target = TARGET / "instructions"
    build(*DAEMON, *LOAD, "--release", "--quiet", "--target-dir", target, *QUICK, *LIGHT, *LIBC, flags=False)
    return found(target / "release", "release, optimised little")


def found(folder: Path, description: str) -> Programs:
    folder = folder.resolve()
    return Programs(folder / "bedrock-sidecar", folder / "bench-load", description)


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    cores = len(os.sched_getaffinity(0))
    # On which the proxies write their logs, and the daemon its journal and its index.
    disk = subprocess.run(["df", "--output=fstype", TARGET], check=True, capture_output=True, text=True).stdout.split()[-1]
    return f"{cores} cores, {model}, Linux {platform.release()}, {disk}; {threads()} threads for each proxy"

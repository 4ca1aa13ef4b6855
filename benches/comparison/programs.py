"""The proxies to compare with: as the distribution has them, or built of their source."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from build import TARGET

# AWS's own proxy that signs, as of May 2026. Go's checksum database vouches for what is downloaded.
SIGNER = "github.com/awslabs/aws-sigv4-proxy@v0.0.0-20260506222329-4165dc78f51d"


class NotRun(Exception):
    """Why something cannot be had here."""


def find(name: str) -> tuple[str, dict[str, str]]:
    """The program and its environment. It is unpacked and not installed: to install it would start it as a service."""
    installed = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if installed:
        return installed, {}
    folder = TARGET / "compare" / "programs" / name
    program = folder / "usr" / "sbin" / name
    if not program.exists():
        unpack(name, folder)
    libraries = ":".join(str(path) for path in sorted(folder.glob("usr/lib/*-linux-gnu")))
    environment = {"LD_LIBRARY_PATH": libraries}
    tried = subprocess.run([program, "-v"], env=environment, capture_output=True, text=True)
    if tried.returncode:
        raise NotRun(f"it is not installed, and the distribution's does not start: {tried.stderr.strip()}")
    return str(program), environment


def unpack(name: str, folder: Path) -> None:
    if not shutil.which("apt-get"):
        raise NotRun("it is not installed, and this is no Debian to take it from")
    packages = folder / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    # What would be installed with it, which is what this machine lacks.
    told = apt_get(packages, "--simulate", "--no-install-recommends", "install", name)
    missing = [line.split()[1] for line in told.splitlines() if line.startswith("Inst ")]
    apt_get(packages, "download", *missing)
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, folder], check=True)


def apt_get(folder: Path, *words: str) -> str:
    got = subprocess.run(["apt-get", *words], cwd=folder, capture_output=True, text=True)
    if got.returncode:
        raise NotRun(f"it is not installed, and apt-get {words[0]} fails: {got.stderr.strip().splitlines()[-1:]}")
    return got.stdout


def early_log(file: Path) -> list[str | Path]:
    """What has nginx write here what it has to say before it has read its configuration. Those before 1.19.5 cannot."""
    program, environment = find("nginx")
    told = subprocess.run([program, "-h"], env={**os.environ, **environment}, capture_output=True, text=True)
    return ["-e", file] if "-e filename" in told.stdout + told.stderr else []


def signer() -> str:
    """aws-sigv4-proxy, built of its Go module."""
    folder = TARGET / "compare" / "programs" / "aws-sigv4-proxy"
    program = folder / "aws-sigv4-proxy"
    if not program.exists():
        if not shutil.which("go"):
            raise NotRun("it is built with Go, which is not installed")
        got = subprocess.run(["go", "mod", "download", "-json", SIGNER], capture_output=True, text=True)
        told = json.loads(got.stdout or "{}")
        if "Dir" not in told:
            raise NotRun(f"its Go module cannot be had: {told.get('Error', got.stderr).strip().splitlines()[0]}")
        # The folder of downloaded modules cannot be written to.
        source = folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(told["Dir"], source, copy_function=shutil.copyfile)
        command = ["go", "build", "-mod=mod", "-o", program, "./cmd/aws-sigv4-proxy"]
        for path in [source, *source.rglob("*")]:
            path.chmod(0o755)
        built = subprocess.run(command, cwd=source, capture_output=True, text=True)
        if built.returncode:
            raise NotRun(f"its Go module cannot be built: {built.stderr.strip().splitlines()[-1:]}")
    return str(program)


def version(name: str) -> str:
    """As the program tells it."""
    program, environment = find(name)
    told = subprocess.run([program, "-v"], env={**os.environ, **environment}, capture_output=True, text=True)
    return (told.stdout + told.stderr).splitlines()[0]

#!/usr/bin/env python3
"""A throw-away Debian 12 with a booted systemd, for tests of units and packages.

    tests/booted/machine.py SHARE COMMAND…     boots one, runs the command in it with SHARE at /share, powers it off

The root is made once by debootstrap, in $XDG_CACHE_HOME, and never written to: systemd-nspawn lays a tmpfs over it, so
that every machine starts as a fresh install and leaves nothing. It has a network of its own with nothing but `lo`.

What a machine lacks of a real one: MemoryMax= and TasksMax= are not enforced where the host's cgroups are hybrid.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps,curl,ca-certificates,adduser"
# Grows when the root is to be made anew.
RECIPE = 1
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
DEADLINE = 60


class NotRun(Exception):
    """This host cannot boot a machine; the text says why."""


class Failed(AssertionError):
    """A command in the machine failed."""


def root() -> Path:
    """The cached root, made if need be."""
    if os.geteuid() != 0:
        raise NotRun("needs root")
    _install(("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux"), ("setpriv", "util-linux"))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bedrock-sidecar"
    made = cache / f"{SUITE}-{RECIPE}"
    if made.exists():
        return made
    _install(("debootstrap", "debootstrap"))
    cache.mkdir(parents=True, exist_ok=True)
    # Two runs at once may both make it; the first that is done wins. A half-made one is never taken for whole.
    with tempfile.TemporaryDirectory(dir=cache) as making:
        making = Path(making) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(making), MIRROR]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise NotRun(f"debootstrap failed: {done.stdout.strip().splitlines()[-1]}")
        # Without one, systemd would take the boot for the first and enable every unit.
        (making / "etc/hostname").write_text("booted\n")
        (making / "etc/machine-id").write_text("5bedc0de5bedc0de5bedc0de5bedc0de\n")
        try:
            making.rename(made)
        except OSError:
            if not made.exists():
                raise
    return made


def _install(*wanted: tuple[str, str]) -> None:
    missing = [package for program, package in wanted if not shutil.which(program)]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NotRun(f"not installed, and this is no Debian: {' '.join(missing)}")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, **quiet)
    for program, package in wanted:
        if not shutil.which(program):
            raise NotRun(f"{package} cannot be installed")


class Machine:
    """A running machine; `with` powers it off.

    `binds` are mounted, {"/share": Path}; where the key begins with "ro:", nothing inside can write to it.
    """

    def __init__(self, binds: dict[str, Path] | None = None):
        self.binds = binds or {}
        self.nspawn = None
        self.leader = 0

    def __enter__(self) -> "Machine":
        binds = []
        for inside, outside in self.binds.items():
            option = "--bind-ro" if inside.startswith("ro:") else "--bind"
            binds.append(f"{option}={outside}:{inside.removeprefix('ro:')}")
        self.output = tempfile.TemporaryFile(mode="w+")
        # Told to end when the test is killed, it powers the machine off. The last two options let
        # RestrictAddressFamilies= and IPAddressDeny= of units work in there.
        command = [
            *("setpriv", "--pdeathsig", "TERM", "systemd-nspawn", "--quiet", "--boot", "--volatile=overlay"),
            *("-D", str(root()), f"--machine=booted-{os.getpid()}", *binds),
            *("--register=no", "--keep-unit", "--private-network"),
            *("--console=read-only", "--capability=all", "--system-call-filter=bpf"),
        ]
        self.nspawn = subprocess.Popen(
            command,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until("the machine to start", self._find_leader)
            until("systemd to have booted", self._has_booted)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        is_off = self.leader and self.run("systemctl", "poweroff").returncode == 0
        try:
            self.nspawn.wait(timeout=DEADLINE if is_off else 0)
        except subprocess.TimeoutExpired:
            # It does not take its machine with it.
            if self.leader:
                os.kill(self.leader, signal.SIGKILL)
            self.nspawn.kill()
            self.nspawn.wait()
        self.output.close()

    def _find_leader(self) -> bool:
        if self.nspawn.poll() is not None:
            self.output.seek(0)
            raise NotRun(f"systemd-nspawn ended: {' '.join(self.output.read().split())}")
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        # Before it is PID 1 of a namespace of its own, it is not the machine yet.
        for child in children:
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except OSError:
                continue
            is_init = any(line.split()[0] == "NSpid:" and line.split()[-1] == "1" for line in status.splitlines())
            if is_init and Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                self.leader = int(child)
                return True
        return False

    def _has_booted(self) -> bool:
        return self.run("systemctl", "is-system-running", "--wait").stdout.strip() in ("running", "degraded")

    def run(self, *command: str, **options) -> subprocess.CompletedProcess:
        """Runs a program of the machine, as its root."""
        enter = ["nsenter", "-t", str(self.leader), "-a", "env", "-i", *(f"{k}={v}" for k, v in ENVIRONMENT.items())]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
        return subprocess.run([*enter, *command], stdin=subprocess.DEVNULL, **options)

    def shell(self, script: str) -> str:
        """Runs a shell script in the machine, and returns what it printed.

        Raises Failed if one of its commands fails."""
        done = self.run("sh", "-ec", script)
        if done.returncode != 0:
            raise Failed(f"exit {done.returncode} of: {script}\n{done.stdout}")
        return done.stdout

    def host(self, *command: str, uid: int = 0, **options) -> subprocess.Popen:
        """Starts a program of the host, in the machine's network and under this uid."""
        enter = ["nsenter", "-t", str(self.leader), "-n"]
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--pdeathsig", "KILL"]
        return subprocess.Popen([*enter, *user, *command], stdin=subprocess.DEVNULL, text=True, **options)

    def path(self, inside: str) -> Path:
        """A file of the machine, as the host sees it."""
        return Path(f"/proc/{self.leader}/root") / inside.lstrip("/")


def until(what: str, condition, seconds: float = DEADLINE):
    """Waits until the condition gives something that is true, and returns it."""
    start = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() - start > seconds:
            raise Failed(f"in vain: waited for {what}")
        time.sleep(0.05)


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Machine({"/share": Path(sys.argv[1]).resolve()}) as machine:
            return machine.run(*sys.argv[2:], stdout=None, stderr=None).returncode
    except NotRun as why:
        print(f"NOT RUN: booted systemd: {why}")
        return 0


if __name__ == "__main__":
    sys.exit(main())

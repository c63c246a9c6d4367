"""`python -m deploy.dead list | requeue JOB... | drop JOB...`: jobs that were given up after they failed every worker.

COROLLA_REDIS_URL names the broker. A job is kept for a day; requeue lets workers go on with it after its last token,
and its client, if that asks again by the job's id, gets the answer.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from shared.dead import DeadLetters
from shared.errors import BrokerUnavailable
from shared.settings import REDIS_URL, SettingError, read

_ROW = "{:<32}  {:<19}  {:<11}  {:>6}  {:>6}  {:<24}  {}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command reads: the variable COROLLA_REDIS_URL."""

    redis_url: str = REDIS_URL


def main() -> int:
    """Do what the command line says; the exit status, 1 where a job is no dead letter."""
    arguments = _parser().parse_args()
    try:
        with DeadLetters(read(Settings).redis_url) as letters:
            if arguments.do == "list":
                return _list(letters)
            if arguments.do == "requeue":
                return _each(arguments.jobs, lambda job: letters.requeue(job, arguments.deadline_s * 1000), "requeued")
            return _each(arguments.jobs, letters.drop, "dropped")
    except (SettingError, BrokerUnavailable) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.dead", description="Jobs that were given up.")
    commands = parser.add_subparsers(dest="do", required=True)
    commands.add_parser("list", help="show them, the oldest first; no prompts")
    requeue = commands.add_parser("requeue", help="let workers try them again")
    requeue.add_argument("--deadline-s", type=int, default=300, help="time for it; default: %(default)s")
    drop = commands.add_parser("drop", help="forget them and their prompts")
    for command in (requeue, drop):
        command.add_argument("jobs", nargs="+", metavar="JOB")
    return parser


def _list(letters: DeadLetters) -> int:
    print(_ROW.format("job", "given up (UTC)", "priority", "tokens", "claims", "tenant", "model"))
    for each in letters.all():
        at = datetime.fromtimestamp(each.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(_ROW.format(each.job, at, each.priority, each.tokens, each.claims, each.tenant, each.model))
    return 0


def _each(jobs: Iterable[str], operation: Callable[[str], bool], done: str) -> int:
    missed = [job for job in jobs if not _tell(job, operation(job), done)]
    return int(bool(missed))


def _tell(job: str, succeeded: bool, done: str) -> bool:
    print(f"{job} {done}" if succeeded else f"{job} is no dead letter, or its session is over")
    return succeeded


if __name__ == "__main__":
    sys.exit(main())

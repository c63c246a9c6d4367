"""`python -m deploy.keys create NAME | list | revoke ID...`: the API keys that gateways let through.

COROLLA_REDIS_URL names the broker; COROLLA_KEY_PEPPER is the one that the gateways have. A key is shown once, when it
is made; a gateway that is asked with a key that was revoked refuses it from then on.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from shared.api_keys import SCOPES, ApiKeys, KeysFull
from shared.errors import BrokerUnavailable
from shared.keys import Keys
from shared.link import Link
from shared.settings import KEY_PEPPER, REDIS_URL, SettingError, read

_ROW = "{:<16}  {:<19}  {:<24}  {}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command reads; each is the variable COROLLA_<NAME>."""

    redis_url: str = REDIS_URL
    key_pepper: str = KEY_PEPPER


def main() -> int:
    """Do what the command line says; the exit status: 1 where a key to revoke is none, 2 where nothing can be done."""
    try:
        return asyncio.run(_run(_parser().parse_args(), read(Settings)))
    except (SettingError, BrokerUnavailable, KeysFull) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.keys", description="API keys.")
    commands = parser.add_subparsers(dest="do", required=True)
    create = commands.add_parser("create", help="make a key, and show it this once")
    create.add_argument("name", metavar="NAME", help="whose it is, for `list`")
    create.add_argument("--scope", action="append", choices=SCOPES, help="what it is for; default: generate, batches")
    commands.add_parser("list", help="show what is known of all keys, the newest first")
    commands.add_parser("revoke", help="let keys count no longer").add_argument("ids", nargs="+", metavar="ID")
    return parser


async def _run(arguments: argparse.Namespace, settings: Settings) -> int:
    keys = Keys()
    link = Link(settings.redis_url, keys.prefix)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(link.close)
        api_keys = ApiKeys(link, keys, settings.key_pepper)
        match arguments.do:
            case "create":
                if not settings.key_pepper:
                    raise SettingError("COROLLA_KEY_PEPPER is not set, but must be, to what the gateways have")
                print(await api_keys.create(arguments.name, tuple(arguments.scope or ("generate", "batches"))))
            case "list":
                await _list(api_keys)
            case _:
                return await _revoke(api_keys, arguments.ids)
    return 0


async def _list(keys: ApiKeys) -> None:
    print(_ROW.format("id", "made (UTC)", "scopes", "name"))
    for key in await keys.list():
        made = datetime.fromtimestamp(key.created_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        print(_ROW.format(key.id, made, " ".join(key.scopes), key.name))


async def _revoke(keys: ApiKeys, ids: Sequence[str]) -> int:
    missed = 0
    for id in ids:
        found = await keys.revoke(id)
        print(f"{id} {'revoked' if found else 'is no key'}")
        missed += not found
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())

"""What all endpoints of one gateway share."""

import dataclasses
import secrets

from gateway.batch_queue import BatchQueue
from gateway.batch_records import Batch, File
from gateway.drain import Drain
from gateway.hub import Hub
from gateway.jobs import Jobs
from gateway.metrics import Metrics
from gateway.orders import Priority
from gateway.petals_ws import Rules
from gateway.settings import DAY_S, Settings
from gateway.storage import Storage
from shared.api_keys import ApiKeys
from shared.broker import Broker
from shared.catalog import Catalog
from shared.keys import Keys, Timing
from shared.link import Link
from shared.records import Bounds
from shared.shelf import Shelf

# A session outlives the socket's own idle time, so that the socket is the one who says that it is over.
SESSION_MARGIN_S = 30
BATCH_LIFE_MS = 30 * 1000 * DAY_S
MAX_RECORDS = 10_000


@dataclasses.dataclass(frozen=True)
class Gateway:
    """The parts of a gateway; nothing of it connects to anything before it is used."""

    settings: Settings
    catalog: Catalog
    broker: Broker
    hub: Hub
    jobs: Jobs
    rules: Rules
    metrics: Metrics
    link: Link
    files: Shelf[File]
    batches: Shelf[Batch]
    storage: Storage
    queue: BatchQueue
    drain: Drain
    keys: ApiKeys

    async def aclose(self) -> None:
        """Drop all connections."""
        await self.broker.close()
        await self.link.close()


def build_for_batches(settings: Settings, catalog: Catalog) -> Gateway:
    """A gateway for requests of batches: they come after everybody else's, and may take as long as a batch may.

    They wait for whoever is there, so no rates hold them up.
    """
    name = f"batch-{secrets.token_hex(8)}"
    own = dataclasses.replace(settings, gateway_name=name, deadline_s=DAY_S, requests_per_min=0, tokens_per_min=0)
    return build(own, catalog, priority="batch")


def build(
    settings: Settings, catalog: Catalog, timing: Timing | None = None, priority: Priority = "interactive"
) -> Gateway:
    """A gateway of those settings, which serves the models of that catalogue. Raises SettingError."""
    broker = Broker(settings.redis_url, timing)
    hub = Hub(broker, settings.gateway_name or secrets.token_hex(8))
    bounds = Bounds(
        settings.max_waiting_per_client, settings.max_waiting, settings.requests_per_min, settings.tokens_per_min
    )
    metrics = Metrics(catalog.models)
    jobs = Jobs(broker, hub, bounds, settings.deadline_s, settings.resume_grace_s, metrics, priority)
    rules = Rules(catalog, settings.max_prompt_chars, settings.max_frame_bytes, new_id, draw_seed)
    keys = Keys()
    link = Link(settings.redis_url, keys.prefix)
    files = Shelf(link, keys, "file", File, 0, MAX_RECORDS)
    batches = Shelf(link, keys, "batch", Batch, BATCH_LIFE_MS, MAX_RECORDS)
    storage, queue = Storage(settings.files), BatchQueue(settings.redis_url)
    drain, api_keys = Drain(), ApiKeys(link, keys, settings.key_pepper)
    return Gateway(
        settings, catalog, broker, hub, jobs, rules, metrics, link, files, batches, storage, queue, drain, api_keys
    )


def new_id() -> str:
    """An id that nobody can guess: 128 bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def draw_seed() -> int:
    """A seed for a client that sent none."""
    return secrets.randbits(63)

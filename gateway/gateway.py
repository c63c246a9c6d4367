"""What all endpoints of one gateway share."""

import dataclasses
import secrets

from gateway.hub import Hub
from gateway.jobs import Jobs
from gateway.metrics import Metrics
from gateway.petals_ws import Rules
from gateway.settings import Settings
from shared.broker import Broker
from shared.catalog import Catalog
from shared.keys import Timing
from shared.records import Bounds

# A session outlives the socket's own idle time, so that the socket is the one who says that it is over.
SESSION_MARGIN_S = 30


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


def build(settings: Settings, catalog: Catalog, timing: Timing | None = None) -> Gateway:
    """A gateway of those settings, which serves the models of that catalogue."""
    broker = Broker(settings.redis_url, timing)
    hub = Hub(broker, settings.gateway_name or secrets.token_hex(8))
    bounds = Bounds(settings.max_waiting_per_client, settings.max_waiting)
    metrics = Metrics()
    jobs = Jobs(broker, hub, bounds, settings.deadline_s, settings.resume_grace_s, metrics)
    rules = Rules(catalog, settings.max_prompt_chars, settings.max_frame_bytes, new_id, draw_seed)
    return Gateway(settings, catalog, broker, hub, jobs, rules, metrics)


def new_id() -> str:
    """An id that nobody can guess: 128 bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


def draw_seed() -> int:
    """A seed for a client that sent none."""
    return secrets.randbits(63)

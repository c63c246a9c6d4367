"""Runs batches: `python -m gateway.batch_worker`, any number of them. Each answers one batch at a time."""

import logging
import signal
import sys
import time
import warnings

import structlog
from rq import Queue, Worker
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from gateway.batch_queue import batch_queue
from gateway.settings import Settings
from shared import catalog, logs
from shared.settings import SettingError, read

# RQ gives up a worker 60 s after a beat was due; whoever waits for work looks for such ones now and then.
BEAT_S = 5
LOOK_S = 10
WAIT_S = 10
# What RQ takes off a worker's life to get the time for which it waits.
RQ_MARGIN_S = 15
RQ_NAMES_S = 60

log = structlog.get_logger()


class BatchWorker(Worker):
    """RQ's worker, whose process for the batch is told when this one is to stop; the batch goes on elsewhere."""

    def handle_warm_shutdown_request(self) -> None:
        """See rq.Worker."""
        if self.horse_pid:
            self.kill_horse(signal.SIGTERM)

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry) -> None:
        """See rq.Worker. It asks for the record of everybody who tried the job, and takes the job for failed, over and
        over, where one was killed: records go a minute before the names by which they are asked for."""
        job.execution_registry.cleanup(time.time() + RQ_NAMES_S)
        super().handle_job_success(job, queue, started_job_registry)


def main() -> None:
    """Work until SIGTERM or SIGINT. Exit status 2: wrong settings."""
    try:
        settings = read(Settings)
        catalog.load(settings.catalog)
    except (SettingError, catalog.CatalogError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logs.configure(settings.log_level)
    logging.getLogger("rq").setLevel(logging.WARNING)
    # RQ would tell others its address; where the broker has users, they cannot ask for it.
    warnings.filterwarnings("ignore", "CLIENT LIST")
    queue = batch_queue(settings.redis_url)
    worker = BatchWorker(
        [queue],
        connection=queue.connection,
        serializer=JSONSerializer,
        log_job_description=False,
        job_monitoring_interval=BEAT_S,
        maintenance_interval=LOOK_S,
        worker_ttl=WAIT_S + RQ_MARGIN_S,
    )
    log.info("ready", queue=queue.name)
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()

"""Which status of a batch may follow which."""

from gateway.batch_records import Batch

NEW = Batch("b", "-", "/v1/completions", "f", "24h", created_at=1, expires_at=2)


def test_a_batch_from_beginning_to_end() -> None:
    batch = NEW.turned("in_progress").turned("finalizing").turned("completed", output_file_id="o")
    assert (batch.status, batch.output_file_id) == ("completed", "o")
    assert set(batch.times) == {"in_progress_at", "finalizing_at", "completed_at"}


def test_a_batch_that_has_ended_stays_as_it_is() -> None:
    failed = NEW.turned("in_progress").turned("failed")
    for status in ("in_progress", "finalizing", "cancelling", "cancelled", "completed", "expired"):
        assert failed.turned(status) is failed


def test_who_works_on_a_batch_does_not_overrule_who_cancels_it() -> None:
    cancelling = NEW.turned("in_progress").turned("cancelling")
    for status in ("in_progress", "finalizing", "completed"):
        assert cancelling.turned(status) is cancelling
    assert cancelling.turned("cancelled").status == "cancelled"
    assert NEW.turned("cancelled").status == "cancelled"


def test_a_batch_that_is_begun_again_keeps_when_it_began() -> None:
    begun = NEW.turned("in_progress")
    assert begun.turned("in_progress") is begun

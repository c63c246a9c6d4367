"""The head that the worker and the plain loop share in a simulation, and its swarm."""

import dataclasses

MODEL = "corolla/simulated"  # the catalogue's key


@dataclasses.dataclass(frozen=True)
class Shape:
    """vocab, hidden: rows and columns of the head; dtype: of its weights; step_ms: time that the servers take."""

    vocab: int
    hidden: int
    dtype: str
    step_ms: float

    @property
    def arguments(self) -> list[str]:
        """By which `python -m tests.bench.simulated` is told."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(self).items()]

"""The command line of the benchmarks."""

import argparse


def make_parser(name: str, description: str, tokens: int, dtype: str) -> argparse.ArgumentParser:
    """Options that every comparison has; these defaults are its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.bench.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--sessions", type=_counts, default=(1, 4, 16, 64), help="users at once, such as 1,4,16,64")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens of each answer")
    parser.add_argument("--runs", type=int, default=5, help="how often each side writes at each level")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=dtype, help="number format of the head")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))

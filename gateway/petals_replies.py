"""An answer's tokens, cut into the reply messages of the WebSocket API."""

import dataclasses
from collections.abc import Iterator

from shared.messages import JobFailed, JobFinished, LogEntry


@dataclasses.dataclass(frozen=True)
class Reply:
    """One message: the text of its tokens, how many they are, the seq of the last token told so far.

    ending: how the answer ended, with its last message only.
    """

    outputs: str
    token_count: int
    seq: int
    ending: JobFinished | None = None


class Replies:
    """Gathers tokens until a reply is due.

    chunk: tokens in a reply; None puts the whole answer into one. A reply is held back while its last token has no
    text yet, because that character is incomplete: then it takes in the following tokens. after: seq before the first.
    """

    def __init__(self, chunk: int | None, after: int) -> None:
        self._chunk = chunk
        self._texts: list[str] = []
        self._seq = after

    def feed(self, entry: LogEntry) -> Iterator[Reply]:
        """The replies that are due with this entry. The last one of an answer has its ending.

        Where the job failed, a stream's gathered tokens are still told; a single reply then never comes.
        """
        for number, token in enumerate(entry.tokens, start=1):
            self._texts.append(token.text)
            self._seq += 1
            last = entry.ending is not None and number == len(entry.tokens)
            if not last and token.text and self._chunk is not None and len(self._texts) >= self._chunk:
                yield self._cut()
        if isinstance(entry.ending, JobFailed):
            if self._chunk is not None and any(self._texts):
                yield self._cut()
        elif entry.ending is not None:
            yield self._cut(entry.ending)

    def _cut(self, ending: JobFinished | None = None) -> Reply:
        texts, self._texts = self._texts, []
        return Reply("".join(texts), len(texts), self._seq, ending)

"""How many files and sockets this process may have open."""

import resource


def allow_all() -> None:
    """Raise the limit to the highest that is allowed: container engines start a process with 1,024 of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

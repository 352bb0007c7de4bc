"""Which addresses of a cluster the whole internet can reach."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import socket
import sys

from .task import Task, split_address


def check_public(task: Task, refuse: bool) -> None:
    """Says on the chief's stderr which addresses are public.

    Args:
        task: This process's.
        refuse: Whether that is an error instead, on every worker.

    Raises:
        ValueError: an address is public and that is refused.
    """
    if not refuse and not task.is_chief:
        return  # Names are looked up, which takes time.
    public = ", ".join(f"{n} at {a}" for n, a in public_addresses(task).items())
    if not public:
        return
    why = (
        "TensorFlow's server has no authentication: whoever reaches its port can read "
        "and write files as this user (SECURITY.md)."
    )
    if refuse:
        raise ValueError(
            f"With `refuse_public` no address may be public. Received: {public}. {why} "
            "Use addresses of a private network."
        )
    print(
        f"tem_tf: public addresses: {public}. {why} Let a firewall keep all but the "
        "workers out.",
        file=sys.stderr,
        flush=True,
    )


def public_addresses(task: Task) -> dict[str, str]:
    """Those addresses of a cluster, by name, that the whole internet can reach.

    A host name counts by what it stands for here; one that is not known does not.
    """
    hosts = [split_address(address)[0] for address in task.addresses.values()]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # A look-up may take long.
        numbers = list(pool.map(_numbers, hosts))
    return {
        name: address
        for (name, address), of_host in zip(
            task.addresses.items(), numbers, strict=True
        )
        if any(map(_is_public, of_host))
    }


def _numbers(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # The name is not known, or is none.
        return []
    return [str(entry[4][0]).partition("%")[0] for entry in found]


def _is_public(number: str) -> bool:
    return ipaddress.ip_address(number).is_global

"""How often and how patiently a service is asked: policy, clock, rate limit for each host, waits between attempts."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from astrid_gpu.errors import ConfigError

__all__ = ["Clock", "Policy", "RateLimiter", "backoff_seconds", "retry_after_seconds"]


@dataclass(frozen=True)
class Clock:
    """Where time comes from. Tests give one that does not sleep."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    wall: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random


@dataclass(frozen=True)
class Policy:
    """Patience towards a service.

    Parameters
    ----------
    attempts : int
        Times that one request is tried in all, the first included. Bytes that arrived are not asked for again, and
        an attempt that brought new bytes does not count.
    first_wait, longest_wait : float
        Seconds before the second attempt, doubled each time, and the most that is ever waited. A service that asks
        for longer (Retry-After) is obeyed by giving up, with its words.
    connect_timeout, read_timeout : float
        Seconds for the connection to open, and for the next byte to arrive.
    stall_timeout, least_rate : float
        A transfer that brings less than `least_rate` bytes a second for `stall_timeout` seconds is cut off.
    per_second : float
        Requests a second to one host, over all threads.
    workers : int
        Files fetched at the same time.
    largest_answer : int
        Bytes of an answer that is held in memory (tables, JSON); a larger one is an error.
    """

    attempts: int = 5
    first_wait: float = 1.0
    longest_wait: float = 120.0
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    stall_timeout: float = 60.0
    least_rate: float = 512.0
    per_second: float = 5.0
    workers: int = 4
    largest_answer: int = 512 * 2**20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                msg = f"Policy({name}={value!r}): must be above 0"
                raise ConfigError(msg)


@dataclass
class RateLimiter:
    """Spaces the requests to each host; a host that said Retry-After is left alone by every thread until then."""

    per_second: float
    clock: Clock = field(default_factory=Clock)
    _free: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def turn(self, host: str) -> float:
        """Take the next turn at `host`; return the seconds until then."""
        with self._lock:
            now = self.clock.now()
            turn = max(now, self._free.get(host, now))
            self._free[host] = turn + 1.0 / self.per_second
            return turn - now

    def hold(self, host: str, seconds: float) -> None:
        """Let nobody ask `host` for `seconds`."""
        with self._lock:
            until = self.clock.now() + seconds
            self._free[host] = max(until, self._free.get(host, until))


def backoff_seconds(attempt: int, policy: Policy, clock: Clock) -> float:
    """Seconds to wait after the failed attempt number `attempt` (0 is the first): doubling, half of it by chance.

    The chance keeps many clients that failed together from coming back together.
    """
    full = min(policy.first_wait * 2.0 ** min(attempt, 30), policy.longest_wait)
    return full * (0.5 + 0.5 * clock.chance())


def retry_after_seconds(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or as a date; None if there is none."""
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:9])
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - clock.wall())
    except (TypeError, ValueError, OverflowError):
        return None

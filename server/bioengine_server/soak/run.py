"""A whole soak: a stack, callers, kills and a watch beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

from bioengine_server.bench.stack import CLIENT_ENVIRONMENTS, bench_stack
from bioengine_server.environments import build_environments
from bioengine_server.errors import StackError
from bioengine_server.settings import Settings
from bioengine_server.soak.answers import right_answers
from bioengine_server.soak.caller import Caller, Outcome
from bioengine_server.soak.kills import Killer
from bioengine_server.soak.plan import CALLERS, Plan
from bioengine_server.soak.tally import Tally
from bioengine_server.soak.watch import Watch

_LOOKS = 300  # at a stack, in a whole soak
_MIN_INTERVAL = 1.0  # seconds


def run_soak(settings: Settings, minutes: float, seed: int, pause: float, tell: Callable[[str], None]) -> Tally:
    """Raises StackError, BenchFailed.

    Args:
        settings: of the stack; its home, ports and addresses are the soak's own.
        minutes: that it lasts.
        seed: of all that happens.
        pause: seconds that each caller waits between two requests.
        tell: told what is done next.
    """
    tell("Looking for the client libraries")
    if not build_environments(*CLIENT_ENVIRONMENTS.values()):
        raise StackError("The client libraries to call with could not be installed; what is above says why.")
    tell("Starting a server")
    with ExitStack() as parts:
        stack = parts.enter_context(bench_stack(settings))
        tell("Computing the right answers")
        answers = right_answers(stack)

        def caller(kind: str) -> Caller:
            made = Caller(kind, stack.settings.environments, stack.settings.url, stack.folder)
            return parts.enter_context(closing(made))

        callers = [caller(kind) for kind in CALLERS]
        over = threading.Event()
        outcomes: list[Outcome] = []

        def call(number: int, one: Caller) -> None:
            for action in Plan(one.kind, f"{seed} caller {number}", answers):
                if over.is_set():
                    return
                outcomes.append(one.do(action))
                over.wait(pause)

        watch, killer = Watch(stack), Killer(stack, f"{seed} kills", caller("hypha-rpc"))
        started = time.monotonic()
        with ThreadPoolExecutor(len(CALLERS) + 2) as pool:
            work = [
                pool.submit(watch.run, over, max(_MIN_INTERVAL, minutes * 60 / _LOOKS)),
                pool.submit(killer.run, over),
                *(pool.submit(call, number, one) for number, one in enumerate(callers)),
            ]
            try:
                while (left := started + minutes * 60 - time.monotonic()) > 0 and not any(each.done() for each in work):
                    tell(f"{left / 60:.0f} minutes left; {len(outcomes)} answers, {len(killer.kills)} kills")
                    time.sleep(min(1.0, left))
            finally:
                over.set()
            for each in work:
                each.result()
        return Tally(seed, minutes, started, outcomes, killer.kills, watch.samples)

"""Other people who have an account on this machine, or run programs on it."""

from __future__ import annotations

import os
import pwd

import psutil

_FIRST_OF_PEOPLE, _LAST_OF_PEOPLE = 1000, 59_999  # the user ids that Debian and Red Hat give to people
_NO_SHELL = ("nologin", "false", "sync", "halt", "shutdown")
_SHOWN = 3


def other_users() -> str:
    """The names of some other users, as text; empty if there are none."""
    names = sorted(_with_a_shell() | _with_processes())
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _with_a_shell() -> set[str]:
    return {user.pw_name for user in pwd.getpwall() if _is_a_person(user.pw_uid) and not user.pw_shell.endswith(_NO_SHELL)}


def _with_processes() -> set[str]:
    """People whose accounts the machine does not list, such as those of a directory service."""
    numbers = {process.info["uids"].real for process in psutil.process_iter(["uids"]) if process.info["uids"] is not None}
    return {_name(number) for number in numbers if _is_a_person(number)}


def _is_a_person(number: int) -> bool:
    # Directory services of organisations use higher user ids.
    is_system = number < _FIRST_OF_PEOPLE or _LAST_OF_PEOPLE < number < 100_000
    return not is_system and number != os.getuid()


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"

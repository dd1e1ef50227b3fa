"""`bioengine bench`: the one place where speed and memory are measured.

    a stack of its own -> subjects (one module each) -> measurements -> table, JSON

Machines are noisy and differ, so what is compared is measured in the same run, round by round, and judged as a ratio or by the
median. Each subject is a function of `run.SUBJECTS`.
"""

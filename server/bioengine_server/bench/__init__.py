"""`bioengine bench`: measures speed and memory.

    temporary stack -> subjects (one module each) -> measurements -> table, JSON

Machines are noisy and differ, so values to be compared are measured in the same run, in alternating rounds, and judged by their
ratio or median. Each subject is a function of `run.SUBJECTS`.
"""

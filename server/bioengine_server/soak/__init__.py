"""`bioengine soak`: everything that happens to a shared server in weeks, in minutes; every answer is compared.

    a stack of its own -> right answers from bioimageio.core (answers.py)
                       -> callers (caller.py, program.py) that do what a seed says (plan.py)
                       -> kills (kills.py), and how long each took to heal
                       -> samples of memory, descriptors, threads (watch.py)
                       -> tally (tally.py) -> text, JSON, plot (report.py, plot.py)

What is done follows from the seed alone, each caller's actions and the kills; when one of them happens to meet another does not.
"""

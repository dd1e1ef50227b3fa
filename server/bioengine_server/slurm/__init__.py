"""`bioengine slurm`: as many workers as the server's requests need, as jobs of Slurm.

    GET /workers (server.py) -> how many are needed (need.py) ─┐
    squeue (queue.py -> jobs.py) ─────────────────────────────┴─> plan (plan.py) -> sbatch, scancel (queue.py)

The loop (loop.py) keeps nothing on disk: its jobs are those of this user that have its name.
"""

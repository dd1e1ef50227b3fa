"""How far one server and its workers go: a simulation with measured times (docs/scaling.md).

python -P -m bioengine_server.bench.scaling.run [--plot FILE]

scenario.py: callers, models, times -> simulation.py, by the rules of routing.py -> outcome.py -> run.py: table, plot
"""

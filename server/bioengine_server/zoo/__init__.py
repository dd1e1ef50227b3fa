"""`bioengine zoo-report`: which models of a collection run here, how, and why the others do not.

commands/zoo_report.py -> run.py: each model is fetched, imported and tested -> outcome.py: what came of it -> table.py
"""

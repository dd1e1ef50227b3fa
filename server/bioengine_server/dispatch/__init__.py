"""From a request to its result: which model, whose turn, on which worker, loaded, run."""

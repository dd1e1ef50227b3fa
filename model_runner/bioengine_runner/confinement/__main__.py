"""Print what this machine's kernel supports, as JSON."""

from __future__ import annotations

import json

from bioengine_runner.confinement import available

protection = available()
print(json.dumps({"has": str(protection), "lacks": protection.lacks}))

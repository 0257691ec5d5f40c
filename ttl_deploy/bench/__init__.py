"""How long a session takes, measured so that the number can be trusted: warm, alone in its process, every sample kept.

Importing this package loads no engine and no torch; each measurement's process loads what it measures.
"""

from ttl_deploy.bench.isolate import Job, run_all, run_isolated
from ttl_deploy.bench.measure import Measurement, measure_session, merge
from ttl_deploy.callable_room import make_callable

__all__ = ["Job", "Measurement", "measure_session", "merge", "run_all", "run_isolated"]

make_callable(__name__, "ttl_deploy.workflows.bench", "bench")

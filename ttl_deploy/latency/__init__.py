"""How long a session takes, measured so that the number can be trusted: warm, alone in its process, every sample kept.

Importing this package loads no engine and no torch; each measurement's process loads what it measures.
"""

from ttl_deploy.latency.isolate import Job, run_all, run_isolated
from ttl_deploy.latency.measure import Measurement, measure_session, merge

__all__ = ["Job", "Measurement", "measure_session", "merge", "run_all", "run_isolated"]

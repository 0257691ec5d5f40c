"""Whether an exported model is still the one that was validated: two models on the same images, and the verdict.

Facts with intervals, judgement, and where in a graph two models part. No torch, except to compute a run's reference on
images that it was not evaluated on.
"""

from ttl_deploy.parity.compare import Comparison, Verdict, compare, to_record, verdict
from ttl_deploy.parity.run_session import logits_of
from ttl_deploy.spec import Bounds

__all__ = ["Bounds", "Comparison", "Verdict", "compare", "logits_of", "to_record", "verdict"]

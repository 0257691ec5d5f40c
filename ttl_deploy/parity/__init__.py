"""Whether an exported model is still the one that was validated: the comparison of two models' logits, and the verdict.

Both sides see the same preprocessed images. No torch.
"""

from ttl_deploy.parity.compare import Bounds, Comparison, Verdict, compare, to_record, verdict
from ttl_deploy.parity.run_session import logits_of

__all__ = ["Bounds", "Comparison", "Verdict", "compare", "logits_of", "to_record", "verdict"]

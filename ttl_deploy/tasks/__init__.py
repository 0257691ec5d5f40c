"""What a model's outputs mean: probabilities, decisions, and the operating point between two classes. No torch."""

from ttl_deploy.tasks.multiclass import Multiclass, decide, softmax

__all__ = ["Multiclass", "decide", "softmax"]

"""What a network costs before it runs: parameters and multiply-adds (MACs).

MACs are counted by ptflops, the tool of the paper, with its `pytorch` backend: one MAC is one multiply-add, and
batch norms, activations and poolings are counted as ptflops counts them.
"""

from ttl_deploy.complexity.count import Complexity, CutCost, count, cut_costs

__all__ = ["Complexity", "CutCost", "count", "cut_costs"]

"""Training: the loop, its checkpoints and resume, metrics, and the run folder it leaves.

Only `loop`, `engine`, `checkpoint` and `train` import torch, so that reading a run or computing a metric stays cheap.
"""

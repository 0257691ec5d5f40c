"""A source becomes the network's input array, the same in training, verification and prediction; no torch.

`image` has the rule, the other files are its parts.
"""

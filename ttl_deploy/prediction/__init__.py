"""Predicting images with an artifact: their sources, a stream of answers in order, a file that a crash does not lose.

On this machine or over a cluster, each a `Predictor`. No torch and nothing else heavy.
"""

"""Files that a TensorRT build kit carries to the target, word for word; the exporter itself uses `build_engine`.

They import nothing of this package, so that the target needs `tensorrt` (and, to verify, `numpy`) and nothing else.
"""

"""ttl-deploy: a pretrained image network becomes a small, fast, verified medical classifier."""

__version__ = "0.1.0"

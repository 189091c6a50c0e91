"""chexjax: train, compare and explain 14-finding chest-film classifiers on JAX."""

__version__ = "0.2.0"

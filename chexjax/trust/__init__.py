"""Whether a probability can be trusted: a gate for films, calibration, and abstaining."""

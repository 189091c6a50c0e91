"""Whether a probability may be believed: a gate for films before it, calibration behind it."""

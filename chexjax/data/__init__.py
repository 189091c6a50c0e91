"""Films: from a folder, real or simulated, to batches on the devices."""

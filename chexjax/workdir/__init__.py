"""What lies in a run's folder: its config, its checkpoints, its lock."""

"""Four sidecars with one canary, under load: see ``python -m bench.rollout --help``."""

"""What ``profile: llm`` promises, measured: see ``python -m bench.llm --help``."""

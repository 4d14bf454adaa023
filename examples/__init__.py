"""Workloads that stand beside sidecars. None of them knows of one."""

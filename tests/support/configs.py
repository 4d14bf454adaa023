"""Configurations for tests: load a text, or say what is wrong with it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from sidecar.config.errors import ConfigError, Problem
from sidecar.config.load import load_text
from sidecar.config.schema import Config

#: Inbound and one upstream of each protocol.
FULL = """
service: {name: tasks, app: 127.0.0.1:8080}
registry: consul://127.0.0.1:8500
inbound: {bind: 0.0.0.0:10030}
upstreams:
  ollama: {bind: 127.0.0.1:11434}
  redis: {bind: 127.0.0.1:6379, protocol: tcp, endpoints: [10.0.0.9:6379]}
"""


def config_of(text: str, environ: Mapping[str, str] | None = None, filename: str = "mesh.yaml") -> Config:
    """The configuration of a text, which may be indented."""
    return load_text(textwrap.dedent(text), filename, environ or {})


def error_of(text: str, environ: Mapping[str, str] | None = None, filename: str = "mesh.yaml") -> ConfigError:
    """The error that loading a text gives."""
    try:
        config = config_of(text, environ, filename)
    except ConfigError as error:
        return error
    raise AssertionError(f"this was accepted: {config}")


def problems_of(text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """What is wrong with a text."""
    return error_of(text, environ).problems


def problem_of(text: str, environ: Mapping[str, str] | None = None) -> Problem:
    """The one thing that is wrong with a text."""
    problems = problems_of(text, environ)
    assert len(problems) == 1, "\n".join(problem.text("mesh.yaml") for problem in problems)
    return problems[0]

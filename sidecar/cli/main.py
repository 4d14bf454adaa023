"""The command line. Each command imports what it needs itself, so that ``check`` and ``--help`` answer at once, and
``run`` holds signals back before anything else."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.agent import process, signals
from sidecar.cli import environment

if TYPE_CHECKING:
    import argparse

    from sidecar.config.schema import Config

#: Exit code: wrong usage or configuration.
MISUSED = 2

_EPILOG = """\
examples:
  sidecar check sidecar.yaml            every mistake in the file at once
  sidecar check --offline --json -      from standard input, for CI: no secrets needed, JSON for machines
  sidecar run sidecar.yaml              until SIGTERM, which drains; SIGHUP reads the file again
  sidecar exec sidecar.yaml -- CMD      the same with the app, as a container's entry point
  sidecar wait --timeout 30s            until the sidecar on this host is ready
  sidecar schema --text | less          every key, what it means, its default
  sidecar schema > sidecar.schema.json  the same for your editor
  sidecar status                        what the sidecar on this host is doing
  sidecar why ID                        why a request failed; without an ID, the newest ones
  sidecar tap --status 5xx              its exchanges as they end
  sidecar diagnose                      what is wrong with it, and what to do next
  sidecar validate                      whether a whole mesh works, section by section; for CI
  sidecar mesh                          who calls whom, with rates, errors and latencies
  sidecar top                           its upstreams, live
  sidecar diff sidecar.yaml             what a reload would change in it
  sidecar rehearse new.yaml             what would have been different in the last hour with it
  sidecar drain                         what comes in finishes; then the app can be told to end
  sidecar spool --help                  messages that the broker did not take
  sidecar attach compose.yml shop       what to add to give a service a sidecar
  sidecar export kong --routes FILE     a gateway's configuration from the registry; Prometheus' targets, too
  sidecar redirect sidecar.yaml         have the kernel lead an app's connections through its sidecar
  sidecar demo                          a small mesh to look at, in your terminal
  sidecar completion bash               for the shell: commands and options by the tab key

where to begin: sidecar demo, then a file of your own:
  service: {name: shop}
  upstreams:
    clock: {bind: "127.0.0.1:9000", endpoints: ["127.0.0.1:8081"]}

exit codes: 0 fine; 1 could not start or lost what it needs, or cannot be asked; 2 usage or configuration
"""

_RUN_EPILOG = """signals:
  SIGTERM, SIGINT   drain: no new requests, what is under way may finish (drain.timeout); a second one stops at once
  SIGHUP            read the file again; a change that takes a restart is refused as a whole, and named in the log

exit codes: 0 drained and stopped; 1 could not start; 2 usage or configuration
"""

_EXEC_EPILOG = """\
examples:
  sidecar exec /etc/sidecar/sidecar.yaml -- python -m shop
  ENTRYPOINT ["sidecar", "exec", "/etc/sidecar/sidecar.yaml", "--"]     in a Dockerfile, with the app as CMD

The app starts once the sidecar serves. When it ends, the sidecar does, with the app's exit code (128 + n: by signal n).
A sidecar that ends by itself is started again, and the app goes on. Orphans are reaped, as the first process has to.

signals:
  SIGTERM, SIGINT   deregister, let what comes in finish (drain.timeout), pass the signal to the app, let it go on
                    calling until it has ended, then leave; a second one is passed to the app at once. An app that has
                    not ended after drain.app (30 s) is killed
  all others        are passed to the app (the sidecar reads its file again by POST /reload of its admin API)

exit codes: the app's; 127 it cannot be found, 126 it cannot be run; before it starts 1 the sidecar could not start,
            2 usage or configuration
"""


_COMPLETION_EPILOG = """\
where it goes:
  bash   in ~/.bashrc:                    eval "$(sidecar completion bash)"
  zsh    in ~/.zshrc, after compinit:     eval "$(sidecar completion zsh)"
  fish   in ~/.config/fish/config.fish:   sidecar completion fish | source
"""


def main(arguments: list[str] | None = None) -> int:
    """Run a command, by default the one that the process was started with, and return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if arguments is None and given[:1] in (["run"], ["exec"]):
        signals.hold()
        process.collect_rarely()  # before all that is imported now, and stays
    from sidecar.config.errors import ConfigError

    _fill_standard_files()
    given = _with_file(given)
    try:
        environment.check()
        code = _run_file(given[1]) if _names_a_file(given) else _command(given)
        if sys.stdout is not None:
            sys.stdout.flush()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would try to write the rest once more
        return 0
    return code


def _names_a_file(given: list[str]) -> bool:
    """Whether that is ``run FILE`` and nothing more: what is started a thousand times needs no parser of all commands,
    which is a tenth of the start."""
    return len(given) == 2 and given[0] == "run" and not given[1].startswith("-")


def _run_file(file: str) -> int:
    from sidecar.agent.run import run

    return run(file)


def _command(given: list[str]) -> int:
    parser = commands()
    options = parser.parse_args(given)
    if options.version:
        options.command = _version
    if options.command is None:
        parser.print_help(sys.stderr)
        return MISUSED
    code: int = options.command(options)
    return code


def _with_file(given: list[str]) -> list[str]:
    """``run`` and ``exec -- COMMAND`` with the file that is left out; argparse would look for it behind the ``--``."""
    if given != ["run"] and given[:2] != ["exec", "--"]:
        return given
    from sidecar.config.environment import default_file

    return [given[0], default_file(), *given[1:]]


def _fill_standard_files() -> None:
    """Started with a standard file closed, the next socket would get its number, and whatever is printed with it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def commands() -> argparse.ArgumentParser:
    """Return the parser of all commands. It takes nothing but the standard library."""
    import argparse

    from sidecar.cli.arguments import add_file
    from sidecar.cli.asking import add_parsers as add_asking
    from sidecar.cli.attach.command import add_parser as add_attach
    from sidecar.cli.export.command import add_parser as add_export
    from sidecar.cli.redirect import add_parser as add_redirect
    from sidecar.cli.spool.parser import add_parser as add_spool
    from sidecar.cli.validate.parser import add_parser as add_validate

    parser = argparse.ArgumentParser(
        prog="sidecar",
        description="A proxy beside each service: it finds instances, balances, retries, limits, and explains itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=None)
    parser.add_argument("--version", action="store_true", help="the version, and what of the hot path is compiled")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run a sidecar in the foreground",
        description="Run a sidecar in the foreground. Its log goes to standard error.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_file(run)
    run.set_defaults(command=_run)

    _add_exec(commands)
    _add_check(commands)

    schema = commands.add_parser(
        "schema",
        help="print every key of the file: as JSON Schema, or to read",
        description="JSON Schema (draft 2020-12) of the file: every key with its meaning, for editors.",
        epilog="For editors with the YAML language server, the file's first line can be: "
        "# yaml-language-server: $schema=sidecar.schema.json",
    )
    kind = schema.add_mutually_exclusive_group()
    kind.add_argument("--text", action="store_true", help="to read: every key, what is allowed, its default")
    kind.add_argument("--markdown", action="store_true", help="the same as a page")
    schema.set_defaults(command=_schema)

    _add_demo(commands)
    add_asking(commands)
    add_validate(commands)
    add_spool(commands)
    add_attach(commands)
    add_export(commands)
    add_redirect(commands)
    _add_completion(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="run a small mesh and show what happens when things fail",
        description="Real services with a sidecar each, on this machine. Ends by itself within a minute.",
    )
    demo.add_argument("--serve", action="store_true", help="keep the mesh running, without the show, until Ctrl-C")
    demo.set_defaults(command=_demo)


def _add_completion(commands: Any) -> None:
    import argparse

    completion = commands.add_parser(
        "completion",
        help="print what a shell needs to complete these commands",
        description="A script that completes commands, options and files: for ~/.bashrc and its like.",
        epilog=_COMPLETION_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completion.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    completion.set_defaults(command=_completion)


def _add_exec(commands: Any) -> None:
    import argparse

    from sidecar.cli.arguments import add_admin, duration

    run = commands.add_parser(
        "exec",
        help="run a sidecar and its app as one: the entry point of a container",
        description="Serve, then start the app; at the end let it finish, and leave after it.",
        epilog=_EXEC_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="sidecar exec [FILE] -- COMMAND [ARGUMENT ...]",
    )
    run.add_argument("file", metavar="FILE", help="the sidecar's configuration; by default as for sidecar run")
    run.add_argument("app", metavar="COMMAND", nargs=argparse.REMAINDER, help="the app and its arguments, behind --")
    run.set_defaults(command=_exec)

    wait = commands.add_parser(
        "wait",
        help="wait until a running sidecar is ready",
        description="Ask /ready until the answer is yes.",
        epilog="exit codes: 0 it is ready; 1 it was not in time; 2 usage",
    )
    add_admin(wait)
    wait.add_argument("--timeout", metavar="TIME", type=duration, default=30.0, help="at most so long (default: 30s)")
    wait.set_defaults(command=_wait)


def _add_check(commands: Any) -> None:
    from sidecar.cli.arguments import add_file, admin_url

    check = commands.add_parser(
        "check",
        help="check a configuration file",
        description="Every mistake at once: where, what was found, what is allowed, what was most likely meant.",
        epilog="exit codes: 0 the file is right; 2 it is not; with --against also 1: a reload would be refused, or the "
        "sidecar cannot be asked",
    )
    add_file(check, "; - is standard input")
    check.add_argument("--json", action="store_true", help="mistakes as a list of JSON objects, empty when all is fine")
    check.add_argument(
        "--offline", action="store_true", help="without the environment's variables and without secret files"
    )
    check.add_argument(
        "--against", metavar="URL", type=admin_url,
        help="tell what a reload with this file would change in the sidecar with this admin API; secrets are not "
        "compared",
    )  # fmt: skip
    check.add_argument(
        "--token-file", metavar="FILE", default="", help="its admin token (default: SIDECAR_ADMIN_TOKEN)"
    )
    check.set_defaults(command=_check)


def _check(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys
    from sidecar.config.errors import ConfigError, Problem
    from sidecar.config.load import STDIN, check

    if options.against and options.offline:
        print("sidecar check: --against needs the environment and the secrets, so not --offline", file=sys.stderr)
        return MISUSED
    try:
        if options.against:
            from sidecar.cli.diff import check_against

            return check_against(options.file, options.against, options.token_file, as_json=options.json)
        summary = check(options.file, offline=options.offline)
        if summary.config is not None:
            from sidecar.agent.libraries import require_libraries

            require_libraries(summary.config, STDIN if options.file == "-" else options.file)
    except ConfigError as error:
        if not options.json:
            raise
        import json

        found = [problem.as_dict(error.filename) for problem in error.problems]
        if error.more:
            more = Problem("", f"and more; only the first {len(found)} problems are shown")
            found.append(more.as_dict(error.filename))
        print(json.dumps(found, indent=2))
        return MISUSED
    if options.json:
        print("[]")
    else:
        from sidecar.core.text import counted

        name = STDIN if options.file == "-" else options.file
        listeners = counted(summary.listeners, "listener")
        print(f"{name}: fine ({summary.service}: {listeners}, registry: {summary.registry})")
        print(*(f"  redirected: {line}\n" for line in _redirected(summary.config)), sep="", end="")
    return 0


def _redirected(config: Config | None) -> list[str]:
    from sidecar.cli.redirect import plan_of

    plan = plan_of(config) if config is not None else None
    if plan is None:
        return []
    from sidecar.redirect.plan import summary

    return summary(plan)


def _schema(options: argparse.Namespace) -> int:
    import sidecar.filters.order  # noqa: F401 - filters declare their keys

    if options.text or options.markdown:
        from sidecar.config.reference import markdown, reference

        print(reference() if options.text else markdown(), end="\n" if options.text else "")
        return 0
    import json

    from sidecar.config.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _version(options: argparse.Namespace) -> int:
    from sidecar.core.build import described

    print(f"sidecar {__version__} ({described()})")
    return 0


def _completion(options: argparse.Namespace) -> int:
    from sidecar.cli.completion import SHELLS
    from sidecar.cli.tree import read

    print(SHELLS[options.shell](read(commands())), end="")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from sidecar.demo import run_demo

    return run_demo(serve=options.serve)


def _exec(options: argparse.Namespace) -> int:
    from sidecar.cli.exec import execute

    command = options.app[1:] if options.app[:1] == ["--"] else options.app
    if not command:
        print("sidecar exec: no app is named; usage: sidecar exec FILE -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return MISUSED
    return execute(options.file, command)


def _wait(options: argparse.Namespace) -> int:
    from sidecar.cli.wait import wait

    return wait(options.admin, options.timeout)


def _run(options: argparse.Namespace) -> int:
    return _run_file(options.file)

"""Builds the package, and the scanners in C where there is a compiler; without one, the parser in Python does all
of it. With ``SIDECAR_COMPILE=1`` the hot path is compiled by mypyc, too, which needs one; with ``SIDECAR_COMPILE=0``
nothing is compiled.

Everything else about the package is in pyproject.toml, but for the man page, which is made here from the commands. The
same source runs either way; compiled, it spends about half the CPU time on an exchange (docs/benchmarks.md).
"""

import multiprocessing
import os
import pathlib
import sys
from multiprocessing.pool import ThreadPool

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent
COMPILED = os.environ.get("SIDECAR_COMPILE") == "1"
PURE = os.environ.get("SIDECAR_COMPILE") == "0"
#: What the compiler is asked for: -O3 saves an exchange 1.3 % of its instructions, and takes twice as long. Modules
#: call each other directly only if other libraries are not to see their functions. A quarter of the code tells of
#: errors (COLD); it lies apart, so that it is not in memory until there is one. Of Python's functions it calls some
#: hundreds for each exchange: by their addresses, and not by way of a table of jumps.
OPTIMIZATION = "1"
FLAGS = ["-fvisibility=hidden", "-freorder-blocks-and-partition", "-fno-plt"]
#: mypyc's functions that are called where an exception passes.
COLD = ["CPy_AddTraceback", "CPy_TypeErrorTraceback"]
#: Symbols are for debuggers, and as large as the code. What makes a module importable is a few hundred bytes in a
#: library of its own, of which fifty are loaded; with its code in pages of their own each takes 8 KiB more.
LINKING = ["-Wl,--strip-all", "-Wl,-z,noseparate-code"]

#: What every request and every relayed byte runs through.
HOT_PATH = [
    "sidecar/amqp/failover/buffered_path.py",
    "sidecar/amqp/failover/offline.py",
    "sidecar/amqp/failover/offline_login.py",
    "sidecar/amqp/failover/reconnect.py",
    "sidecar/amqp/failover/recovery.py",
    "sidecar/amqp/failover/session.py",
    "sidecar/amqp/failover/side.py",
    "sidecar/amqp/failover/watchdog.py",
    "sidecar/amqp/flow/batches.py",
    "sidecar/amqp/flow/confirms.py",
    "sidecar/amqp/flow/gates.py",
    "sidecar/amqp/flow/lanes.py",
    "sidecar/amqp/flow/partitions.py",
    "sidecar/amqp/flow/policy.py",
    "sidecar/amqp/flow/publish.py",
    "sidecar/amqp/flow/runs.py",
    "sidecar/amqp/flow/scheduler.py",
    "sidecar/amqp/flow/stats.py",
    "sidecar/amqp/flow/tracing.py",
    "sidecar/amqp/flow/unacked.py",
    "sidecar/amqp/listener.py",
    "sidecar/amqp/publisher/connection.py",
    "sidecar/amqp/publisher/connector.py",
    "sidecar/amqp/publisher/exchange_checks.py",
    "sidecar/amqp/publisher/passive_declare.py",
    "sidecar/amqp/publisher/probe_channel.py",
    "sidecar/amqp/publisher/send_queue.py",
    "sidecar/amqp/publisher/unconfirmed.py",
    "sidecar/amqp/relay/answers.py",
    "sidecar/amqp/relay/broker_side.py",
    "sidecar/amqp/relay/channel.py",
    "sidecar/amqp/relay/connections.py",
    "sidecar/amqp/relay/consumer_pause.py",
    "sidecar/amqp/relay/control.py",
    "sidecar/amqp/relay/deliveries.py",
    "sidecar/amqp/relay/departure.py",
    "sidecar/amqp/relay/forward.py",
    "sidecar/amqp/relay/lifecycle.py",
    "sidecar/amqp/relay/opening.py",
    "sidecar/amqp/relay/publishing.py",
    "sidecar/amqp/relay/reading.py",
    "sidecar/amqp/relay/session.py",
    "sidecar/amqp/relay/session_state.py",
    "sidecar/amqp/replay/backoff.py",
    "sidecar/amqp/replay/cursor.py",
    "sidecar/amqp/replay/deferred.py",
    "sidecar/amqp/replay/dispatcher.py",
    "sidecar/amqp/replay/fair_scheduler.py",
    "sidecar/amqp/replay/outcomes.py",
    "sidecar/amqp/replay/prefetch.py",
    "sidecar/amqp/replay/publisher_pool.py",
    "sidecar/amqp/replay/publisher_slot.py",
    "sidecar/amqp/replay/stats.py",
    "sidecar/amqp/replay/stream.py",
    "sidecar/amqp/replay/streams.py",
    "sidecar/amqp/spool/intake.py",
    "sidecar/amqp/spool/lifetimes.py",
    "sidecar/amqp/spool/message.py",
    "sidecar/amqp/spool/shares.py",
    "sidecar/amqp/topology/ephemeral.py",
    "sidecar/amqp/topology/recovery.py",  # its error is a kind of one that is compiled
    "sidecar/amqp/wire/constants.py",
    "sidecar/amqp/wire/content.py",
    "sidecar/amqp/wire/frames.py",
    "sidecar/amqp/wire/handshake.py",
    "sidecar/amqp/wire/methods.py",
    "sidecar/amqp/wire/properties.py",
    "sidecar/amqp/wire/splice.py",
    "sidecar/amqp/wire/tables.py",
    "sidecar/cache/asked.py",
    "sidecar/cache/coming.py",
    "sidecar/cache/dates.py",
    "sidecar/cache/fields.py",
    "sidecar/cache/flights.py",
    "sidecar/cache/freshness.py",
    "sidecar/cache/invalidation.py",
    "sidecar/cache/store.py",
    "sidecar/cache/stored.py",
    "sidecar/cache/validators.py",
    "sidecar/cache/visit.py",
    "sidecar/core/decisions.py",
    "sidecar/core/ids.py",
    "sidecar/core/records.py",
    "sidecar/core/replies.py",
    "sidecar/core/stats.py",
    "sidecar/core/trace.py",
    "sidecar/endpoints/balancers/balancer.py",
    "sidecar/endpoints/balancers/basic.py",
    "sidecar/endpoints/balancers/consistent_hash.py",
    "sidecar/endpoints/balancers/ip_hash.py",
    "sidecar/endpoints/balancers/least_connections.py",
    "sidecar/endpoints/balancers/loaded_first.py",
    "sidecar/endpoints/balancers/peak_ewma.py",
    "sidecar/endpoints/balancers/prequal.py",
    "sidecar/endpoints/balancers/weighted.py",
    "sidecar/endpoints/cluster.py",
    "sidecar/endpoints/endpoint.py",
    "sidecar/endpoints/load.py",
    "sidecar/endpoints/outliers.py",
    "sidecar/endpoints/slow_start.py",
    "sidecar/endpoints/subsets.py",
    "sidecar/exchange/attempt.py",
    "sidecar/exchange/exchange.py",
    "sidecar/exchange/filter.py",
    "sidecar/exchange/hash_key.py",
    "sidecar/exchange/hedge.py",
    "sidecar/exchange/listener.py",
    "sidecar/exchange/load_report.py",
    "sidecar/exchange/message.py",
    "sidecar/exchange/one_hop.py",
    "sidecar/exchange/phases.py",
    "sidecar/exchange/request.py",
    "sidecar/exchange/routes.py",
    "sidecar/exchange/silence.py",
    "sidecar/exchange/story.py",
    "sidecar/exchange/time_left.py",
    "sidecar/exchange/times.py",
    "sidecar/exchange/tries.py",
    "sidecar/filters/access_log.py",
    "sidecar/filters/bulkhead.py",
    "sidecar/filters/cache.py",
    "sidecar/filters/circuit_breaker.py",
    "sidecar/filters/decisions.py",
    "sidecar/filters/drain.py",
    "sidecar/filters/forwarded.py",
    "sidecar/filters/host.py",
    "sidecar/filters/load_report.py",
    "sidecar/filters/metrics.py",
    "sidecar/filters/rate_limit.py",
    "sidecar/filters/request_id.py",
    "sidecar/filters/retry.py",
    "sidecar/filters/shedding.py",
    "sidecar/filters/split.py",
    "sidecar/filters/timeout.py",
    "sidecar/filters/tracing.py",
    "sidecar/filters/why.py",
    "sidecar/http/detour.py",  # its classes are kinds of compiled ones
    "sidecar/http/download.py",
    "sidecar/http/ends.py",
    "sidecar/http/errors.py",
    "sidecar/http/exchange.py",
    "sidecar/http/h1/blocks.py",
    "sidecar/http/h1/body.py",
    "sidecar/http/h1/client.py",
    "sidecar/http/h1/diagnose.py",
    "sidecar/http/h1/framing.py",
    "sidecar/http/h1/half_close.py",
    "sidecar/http/h1/head.py",
    "sidecar/http/h1/lines.py",
    "sidecar/http/h1/server.py",
    "sidecar/http/h1/trailers.py",
    "sidecar/http/listener.py",
    "sidecar/http/mirror.py",  # as detour
    "sidecar/http/pool.py",
    "sidecar/http/quick.py",
    "sidecar/http/race.py",
    "sidecar/http/rehearsed.py",  # its classes are kinds of compiled ones
    "sidecar/http/subrequest.py",  # as detour
    "sidecar/http/tunnel.py",
    "sidecar/http/upload.py",
    "sidecar/net/causes.py",
    "sidecar/net/dial.py",
    "sidecar/net/sockets.py",
    "sidecar/net/wheel.py",
    "sidecar/resilience/adaptive_limit.py",
    "sidecar/resilience/breaker.py",
    "sidecar/resilience/budget.py",
    "sidecar/resilience/given_up.py",
    "sidecar/resilience/limiter.py",
    "sidecar/resilience/lru.py",
    "sidecar/resilience/outcomes.py",
    "sidecar/resilience/priority_limiter.py",
    "sidecar/resilience/quantile.py",
    "sidecar/resilience/sampling.py",
    "sidecar/resilience/shared_limit.py",
    "sidecar/resilience/split.py",
    "sidecar/resilience/token_bucket.py",
    "sidecar/tcp/capture.py",  # its classes are kinds of compiled ones
    "sidecar/tcp/relay.py",
]


class Build(build_ext):
    """Compiles the modules side by side, on all cores. One after the other is all that setuptools does by itself."""

    def run(self):
        # Not before: whoever asks for metadata only, as pip does twice, needs no C.
        if COMPILED:
            self.distribution.ext_modules = [*translated(), *IN_C]
            self.swig_opts = None  # or the second time it would be split once more
            self.finalize_options()
        super().run()

    def build_extensions(self):
        if not COMPILED:
            super().build_extensions()
            return
        # All the code, what makes each module importable, and what is C anyhow.
        library, *modules = self.extensions[: -len(IN_C)]
        self.jobs = self.parallel or os.cpu_count()
        if self.compiler.compiler_type == "unix":
            self.compiler.compile = self.compile
            header = self.header(library)
            for extension in (library, *modules):
                extension.extra_compile_args += ["-include", header]
        self.build_extension(library)
        with ThreadPool(self.jobs) as pool:
            pool.map(self.build_extension, [*modules, *IN_C])

    def header(self, library):
        """Parse once what every file begins with: the declarations of Python and of all modules, a megabyte."""
        group = library.name.removesuffix("__mypyc")
        header = pathlib.Path(self.build_temp, "hot_path.h").absolute()
        header.parent.mkdir(parents=True, exist_ok=True)
        lines = [f'#include "__native_{group}.h"', f'#include "__native_internal_{group}.h"']
        lines += [f"extern __typeof__({name}) {name} __attribute__((cold));" for name in COLD]
        header.write_text("\n".join(lines) + "\n")
        compiler = self.compiler
        _, _, extra, options, _ = compiler._setup_compile(
            self.build_temp, library.define_macros, library.include_dirs, [], None, library.extra_compile_args
        )
        output = header.with_suffix(".h.gch")
        compiler.spawn([*compiler.compiler_so, *options, *extra, "-x", "c-header", str(header), "-o", str(output)])
        return str(header)

    def compile(self, sources, output_dir=None, macros=None, include_dirs=None, debug=False, extra_preargs=None,
                extra_postargs=None, depends=None):  # fmt: skip
        """What the compiler's own method does, but side by side."""
        compiler = self.compiler
        macros, objects, extra_postargs, pp_opts, build = compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)

        def one(item):
            object, (source, extension) = item
            compiler._compile(object, source, extension, cc_args, extra_postargs, pp_opts)

        # The largest first: the last one to be begun decides when all are done.
        largest = sorted(build.items(), key=lambda item: -os.path.getsize(item[1][0]))
        with ThreadPool(min(self.jobs, len(largest))) as pool:
            list(pool.imap(one, largest))
        return objects


def scanner(package, module, code):
    """Return an extension in C on the stable ABI, so that one build serves every Python from 3.11 on. Where there is no
    compiler, that is a warning."""
    folder = "sidecar/" + package.replace(".", "/")
    return Extension(
        f"sidecar.{package}.{module}",
        [f"{folder}/{module}.c", f"{folder}/{code}.c"],
        depends=[f"{folder}/{code}.h"],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        optional=not COMPILED,
    )


#: A few lines that few notice the lack of.
MEMORY = Extension(
    "sidecar.agent._memory",
    ["sidecar/agent/_memory.c"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    py_limited_api=True,
    optional=not COMPILED,
)

#: What is C anyhow: what reads heads of HTTP, and frames of AMQP, first.
IN_C = [scanner("http.h1", "_scan", "scan"), scanner("amqp.wire", "_runs", "runs"), MEMORY]


def translated():
    """Return the hot path as C, in a process of its own: half a gigabyte is free again before the compilers start."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=lambda: send.send(translate()))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        sys.exit("mypyc has failed; what it said is above")
    finally:
        process.join()


def translate():
    from mypyc.build import mypycify

    # Types are checked by `make lint`, where everything that is imported is at hand; here much of it is not.
    options = ["--config-file=", "--ignore-missing-imports"]
    extensions = mypycify([*options, *HOT_PATH], opt_level=OPTIMIZATION, debug_level="0", multi_file=True)
    for extension in extensions:
        extension.extra_compile_args = [*extension.extra_compile_args, *FLAGS]
        if sys.platform == "linux":
            extension.extra_link_args += LINKING
    return extensions


def man_page():
    """Write sidecar(1), and return where. It takes nothing that would have to be installed."""
    sys.path.insert(0, str(ROOT))
    try:
        from sidecar.cli.man_page import text
    finally:
        sys.path.remove(str(ROOT))
    (ROOT / "man").mkdir(exist_ok=True)
    (ROOT / "man" / "sidecar.1").write_text(text(), encoding="utf-8")
    return "man/sidecar.1"


setup(
    # The hot path comes to it when it is translated.
    ext_modules=[] if PURE else IN_C,
    options={} if COMPILED or PURE else {"bdist_wheel": {"py_limited_api": "cp311"}},
    setup_requires=["mypy>=1.15"] if COMPILED else [],
    cmdclass={"build_ext": Build},
    data_files=[("share/man/man1", [man_page()])],
)

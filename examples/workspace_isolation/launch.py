"""``launch.py MEMORY CPU_SECONDS FILE_SIZE FILES COMMAND …``: takes the limits upon itself, and becomes the command.

A program of its own, because code between fork and exec must not run in a process with threads.
"""

import os
import resource
import signal
import sys

memory, cpu, size, files = map(int, sys.argv[1:5])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))  # told at the first, killed at the second
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
for it in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what it becomes would inherit that
    signal.signal(it, signal.SIG_DFL)
try:
    os.execvp(sys.argv[5], sys.argv[5:])
except OSError as error:
    print(f"{sys.argv[5]}: {error.strerror}", file=sys.stderr)
    sys.exit(127)

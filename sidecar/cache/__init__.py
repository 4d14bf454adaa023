"""Which answers may be kept, for how long, and for whom (RFC 9111): bytes in, verdicts out, time as an argument.

The words of this package, as in the docstring of ``sidecar``.

asked                     what a request says that matters to a cache
cache                     answers in memory that are given again, for as long as RFC 9111 allows it
canonical JSON            the one form of all JSON texts that mean the same
coming                    of an answer: on its way, and kept once it is whole
date                      a time as HTTP writes it
field                     a header field: its name and its value
flight                    a request that is under way, and the same ones that wait for its answer
freshness                 for how long an answer may be given without asking anybody
identity                  header fields that say who asks
invalidation              what is kept of a resource is forgotten, as a request has changed it
quick                     of an answer from memory: given without an exchange
stored                    an answer that is kept
validator                 what tells whether an answer is still the same: an entity tag, or a date
visit                     a request that a cache could not answer at once, and what came of it
"""

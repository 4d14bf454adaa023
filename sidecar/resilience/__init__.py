"""Mechanisms: pure objects with injected time. They own no socket, no task and no clock of their own, so each can be
tested by plain calls; :mod:`sidecar.filters` applies them to traffic. The words of rollouts, as in ``sidecar``.

canary                    a subset that gets more and more of the requests, for as long as it does as well as the others
count                     answers of a version, and how many were errors or slow
evidence                  what answers are worth for or against a canary: the logarithm of a bet
judge                     says whether a canary does as well as the others, by what both have answered
note                      what a sidecar keeps beside a shared value, for the others to read
rollout                   the states of a canary: which share it has, and what follows
sequential test           tells of two rates whether one is larger; it may be looked at after every answer
shared, shared value      a small text that all sidecars of a registry have in common
weight                    how much of the requests a subset gets, beside the others
"""
